"""How well a setting does on a few samples, and which settings of a method deserve a closer look."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any

from hyca_calib.baselines.base import Baseline, Settings
from hyca_calib.pipelines.workload import Job
from hyca_calib.quality.evaluate import SampledRun, run_untimed

__all__ = ["Score", "joined", "reason", "score", "score_or_error", "undominated"]


@dataclass(frozen=True)
class Score:
    """One setting of one method, sample by sample.

    Attributes:
        flops_ratio: FLOPs of the full run over its own, mean over the samples; 0 if it failed.
        psnr_db: agreement with the full run.
        error: why there are no figures.
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

    def same_as(self, other: Score) -> bool:
        """Whether both do the very same on these samples."""
        return (self.flops_ratio, self.psnr_db) == (other.flops_ratio, other.psnr_db)


def score(pipe: Any, baseline: Baseline, jobs: Sequence[Job], batch: int, full: SampledRun) -> Score:
    """Sample `jobs` with `baseline`, once.

    Args:
        full: the full run of `jobs`.

    Raises:
        ValueError: pictures that are no numbers.
    """

    def applied() -> AbstractContextManager[Any]:
        return baseline.applied(pipe)

    run = run_untimed(pipe, jobs, baseline.steps, batch, applied)
    if not run.images.isfinite().all():
        raise ValueError("the pictures hold NaN or infinity")
    near = run.fidelity_to(full).psnr_db
    return Score(baseline.name, baseline.family, full.flops / run.flops, near, baseline.settings)


def score_or_error(pipe: Any, baseline: Baseline, jobs: Sequence[Job], batch: int, full: SampledRun) -> Score:
    """As `score`; of a baseline that raises, the error."""
    try:
        return score(pipe, baseline, jobs, batch, full)
    except Exception as error:  # foreign code may raise anything
        return Score(baseline.name, baseline.family, 0.0, (), baseline.settings, reason(error))


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


def undominated(scores: Sequence[Score], margin_db: float = 0.0) -> list[Score]:
    """Those that worked, without settings that spend as much as one of their family that is better by the margin.

    Of settings that do the very same the first stays.
    """
    worked = [s for s in scores if not s.error]

    def beaten(place: int, one: Score) -> bool:
        return any(
            other.family == one.family
            and other.flops_ratio >= one.flops_ratio
            and (other.mean_db > one.mean_db + margin_db or (earlier < place and one.same_as(other)))
            for earlier, other in enumerate(worked)
        )

    return [one for place, one in enumerate(worked) if not beaten(place, one)]
