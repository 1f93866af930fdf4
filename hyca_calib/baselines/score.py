"""How well a setting does on a few samples."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Self

from hyca_calib.baselines.base import Baseline, Settings
from hyca_calib.pipelines.workload import Job
from hyca_calib.quality.evaluate import SampledRun, run_untimed


@dataclass(frozen=True)
class Score:
    """One setting of one method, sample by sample.

    Attributes:
        flops_ratio: FLOPs of the full run over its own, mean over the samples; 0 if it failed.
        psnr_db: agreement with the full run, see `SampleFidelity.agreement_db`.
    """

    method: str
    family: str
    flops_ratio: float
    psnr_db: tuple[float, ...]
    settings: Settings = field(default_factory=dict)
    error: str = ""

    @property
    def mean_db(self) -> float:
        return statistics.fmean(self.psnr_db)

    def same_as(self, other: Self) -> bool:
        """Whether both do the very same on these samples."""
        return (self.flops_ratio, self.psnr_db) == (other.flops_ratio, other.psnr_db)


def check_finite(run: SampledRun) -> None:
    """Raises ValueError where a method draws what is no picture."""
    if not run.images.isfinite().all():
        raise ValueError("the pictures hold NaN or infinity")


def score_or_error(pipe: Any, baseline: Baseline, jobs: Sequence[Job], batch: int, full: SampledRun) -> Score:
    """Sample `jobs` with `baseline`, once; the error of one that raises, or draws pictures that are no numbers."""
    named = partial(Score, baseline.name, baseline.family, settings=baseline.settings)
    try:
        run = run_untimed(pipe, jobs, baseline.steps, baseline.batch(batch), partial(baseline.applied, pipe))
        check_finite(run)
        near = run.fidelity_to(full)
    except Exception as error:  # foreign code may raise anything
        return named(0.0, (), error=reason(error))
    return named(full.flops.networks / run.flops.networks, near.agreement_db)


def reason(error: Exception) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')[:120]}"


def joined(one: Score, other: Score) -> Score:
    """The same method on the samples of both, which may cost differently."""
    if one.error or other.error:
        return replace(one, flops_ratio=0.0, psnr_db=(), error=one.error or other.error)
    counts = len(one.psnr_db), len(other.psnr_db)
    cost = counts[0] / one.flops_ratio + counts[1] / other.flops_ratio
    return replace(one, flops_ratio=sum(counts) / cost, psnr_db=one.psnr_db + other.psnr_db)
