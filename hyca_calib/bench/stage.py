"""Where methods are measured: one model, samples of one split, the full run of them."""

import statistics
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Self

from torch import Tensor

from hyca_calib.baselines import Baseline
from hyca_calib.baselines.score import Score, check_finite, score_or_error
from hyca_calib.bench.figures import Figures, Timing, figures_of
from hyca_calib.bench.isolation import CleanPipeline
from hyca_calib.costs.memory import peak_memory
from hyca_calib.pipelines.rollout import runs_on, sample_images
from hyca_calib.pipelines.workload import Job
from hyca_calib.quality.evaluate import SampledRun, run_untimed, sampling_seconds

FINER = 4
"""Steps of the run that stands for the exact solution, over those of the full run."""
NUM_EXACT = 16
"""Samples that have one."""
REPEATS = 3


@dataclass(frozen=True)
class Stage:
    """Samples with their full run.

    Attributes:
        clean: the pipeline, proven after every method.
        exact: pictures of the first samples from `FINER` times the steps; none on the select split.
    """

    clean: CleanPipeline
    jobs: Sequence[Job]
    num_steps: int
    batch: int
    full: SampledRun
    exact: Tensor | None = None

    @classmethod
    def of(cls, clean: CleanPipeline, jobs: Sequence[Job], num_steps: int, batch: int, exact: bool = False) -> Self:
        """These samples, with the model run in full on them."""
        full = run_untimed(clean.pipe, jobs, num_steps, batch, nullcontext)
        finer = sample_images(clean.pipe, jobs[:NUM_EXACT], FINER * num_steps, batch)[0] if exact else None
        return cls(clean, jobs, num_steps, batch, full, finer)

    def score(self, baseline: Baseline) -> Score:
        """The score of a setting, or its error."""
        found = score_or_error(self.clean.pipe, baseline, self.jobs, self.batch, self.full)
        self.clean.prove()
        return found

    def run(self, baseline: Baseline) -> tuple[SampledRun, str]:
        """All samples by `baseline`, and what it left behind.

        Raises:
            ValueError: pictures that hold NaN or infinity.
        """
        pipe = self.clean.pipe
        batch = baseline.batch(self.batch)
        run = run_untimed(pipe, self.jobs, baseline.steps, batch, lambda: baseline.applied(pipe))
        check_finite(run)
        return run, self.clean.prove()

    def figures(self, run: SampledRun) -> Figures:
        """A run of the same samples against the full one, and against the exact solution."""
        return figures_of(run, self.full, self.exact)

    def timing(self, baseline: Baseline) -> Timing:
        """One batch by `baseline` and in full, in turn; medians of `REPEATS`."""
        pipe, batch = self.clean.pipe, baseline.batch(self.batch)
        jobs = self.jobs[:batch]

        def seconds() -> float:
            return sampling_seconds(pipe, jobs, baseline.steps, batch, lambda: baseline.applied(pipe))

        with peak_memory(runs_on(pipe)) as peak:
            seconds()  # warms up, too
        pairs = [(sampling_seconds(pipe, jobs, self.num_steps, batch, nullcontext), seconds()) for _ in range(REPEATS)]
        full, fast = (statistics.median(column) for column in zip(*pairs, strict=True))
        return Timing(full / fast, peak.bytes)
