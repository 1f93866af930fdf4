"""Where methods are measured: one model, samples of one split, the full run of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from hyca_calib.baselines import Baseline
from hyca_calib.baselines.score import Score, score_or_error
from hyca_calib.bench.figures import Timing
from hyca_calib.bench.isolation import CleanPipeline
from hyca_calib.costs.memory import peak_memory
from hyca_calib.pipelines.rollout import device_of, sample_images
from hyca_calib.pipelines.workload import Job
from hyca_calib.quality.evaluate import Run, run_untimed

__all__ = ["FINER", "FULL", "NUM_EXACT", "Stage", "finer_run", "timed"]

FINER = 4
"""Steps of the run that stands for the exact solution, over those of the full run."""
NUM_EXACT = 16
"""Samples that have one."""
REPEATS = 3

FULL = "full run"


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
    full: Run
    exact: Tensor | None = None

    @classmethod
    def of(cls, clean: CleanPipeline, jobs: Sequence[Job], num_steps: int, batch: int, exact: bool = False) -> Stage:
        """Runs the model in full on `jobs`."""
        full = run_untimed(clean.pipe, jobs, num_steps, batch, nullcontext)
        finer = finer_run(clean.pipe, jobs[:NUM_EXACT], num_steps, batch) if exact else None
        return cls(clean, jobs, num_steps, batch, full, finer)

    def score(self, baseline: Baseline) -> tuple[Score, str]:
        """The setting's score, or its error, and what it left behind."""
        found = score_or_error(self.clean.pipe, baseline, self.jobs, self.batch, self.full)
        return found, self.clean.prove()

    def run(self, baseline: Baseline) -> tuple[Run, str]:
        """All samples by `baseline`, and what it left behind."""
        pipe = self.clean.pipe
        run = run_untimed(pipe, self.jobs, baseline.steps, self.batch, lambda: baseline.applied(pipe))
        return run, self.clean.prove()


def finer_run(pipe: Any, jobs: Sequence[Job], num_steps: int, batch: int) -> Tensor:
    """Pictures from many more steps."""
    return sample_images(pipe, jobs, FINER * num_steps, batch)[0]


def timed(stage: Stage, baseline: Baseline) -> Timing:
    """One batch by `baseline` and in full, in turn; medians of `REPEATS`."""
    pipe, jobs = stage.clean.pipe, stage.jobs[: stage.batch]

    def seconds(method: Callable[[], AbstractContextManager[Any]], steps: int) -> float:
        with method():
            begun = time.perf_counter()
            sample_images(pipe, jobs, steps, stage.batch)
            return time.perf_counter() - begun

    with peak_memory(device_of(pipe)) as peak:
        seconds(lambda: baseline.applied(pipe), baseline.steps)  # warms up, too
    pairs = [
        (seconds(nullcontext, stage.num_steps), seconds(lambda: baseline.applied(pipe), baseline.steps))
        for _ in range(REPEATS)
    ]
    full, fast = (statistics.median(column) for column in zip(*pairs, strict=True))
    return Timing(full / fast, peak.bytes)
