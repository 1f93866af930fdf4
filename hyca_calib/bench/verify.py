"""Published rows measured again: a random part of them, each in a process of its own."""

from __future__ import annotations

import multiprocessing
import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from hyca_calib.baselines import Baseline, Family, Setup, families
from hyca_calib.bench.rows import OURS, Bench, Row, read_bench
from hyca_calib.bench.run import plan_baseline
from hyca_calib.pipelines.workload import Job, Workload
from hyca_calib.quality.evaluate import Run, run_untimed
from hyca_calib.quality.metrics import compare_images
from hyca_runtime import load_plan
from hyca_runtime.errors import WorkloadError

__all__ = ["CALIBRATED", "TOLERANCE_DB", "Check", "Verification", "drawn", "families_of"]

TOLERANCE_DB = 0.01
CALIBRATED = 8
"""Samples of the fit split on which rivals are calibrated."""

Load = Callable[[], Any]


@dataclass(frozen=True)
class Check:
    """A row, measured again on its first batch.

    Attributes:
        published_db, found_db: PSNR of each sample.
        error: why there is no figure.
    """

    method: str
    published_db: tuple[float, ...]
    found_db: tuple[float, ...] = ()
    error: str = ""

    @property
    def off_by(self) -> float:
        """The largest difference of a sample, dB; infinite without a figure."""
        pairs = list(zip(self.published_db, self.found_db, strict=False))
        return max((abs(a - b) for a, b in pairs), default=float("inf"))


@dataclass(frozen=True)
class Verification:
    """How published rows are measured again.

    Attributes:
        folder: of the published table.
        load: makes the pipeline; found by name in a new process, so a function of a module.
        workload: the table's.
    """

    folder: Path
    load: Load
    workload: Workload

    def rows(self, rows: Sequence[Row], workers: int = 1) -> Iterator[Check]:
        """Check these, one process for each.

        Raises:
            WorkloadError: the table was made on other samples.
        """
        bench = read_bench(self.folder)
        if bench.facts["workload"]["digest"] != self.workload.digest:
            raise WorkloadError(f"{self.folder} was measured on other prompts, steps or seeds; give the same --prompts")
        batch = int(bench.facts["batch"])
        jobs, steps = self.workload.of("test")[:batch], self.workload.num_steps
        threads = int(bench.facts["threads"])
        torch.set_num_threads(threads)
        full = run_untimed(self.load(), jobs, steps, batch, nullcontext)
        alone = partial(_alone, self, jobs, batch, threads, full)
        fresh = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(workers, mp_context=fresh, max_tasks_per_child=1) as pool:
            yield from pool.map(alone, rows)


def drawn(bench: Bench, share: float, seed: int, least: int = 1) -> list[Row]:
    """A random part of the rows that have figures."""
    known = [row for row in bench.rows if row.result and row.settings]
    return random.Random(seed).sample(known, min(len(known), max(least, round(share * len(known)))))


def _alone(how: Verification, jobs: Sequence[Job], batch: int, threads: int, full: Run, row: Row) -> Check:
    assert row.result is not None  # noqa: S101  (drawn so)
    torch.set_num_threads(threads)
    published = row.result.psnr_db_each[: len(jobs)]
    try:
        pipe = how.load()
        baseline = _baseline(how, pipe, row)
        run = run_untimed(pipe, jobs, baseline.steps, batch, lambda: baseline.applied(pipe))
    except Exception as error:  # foreign code may raise anything
        return Check(row.method, published, error=f"{type(error).__name__}: {error}")
    return Check(row.method, published, compare_images(run.images, full.images, run.latents, full.latents).psnr_db)


def _baseline(how: Verification, pipe: Any, row: Row) -> Baseline:
    if row.family == OURS:
        plan = load_plan(how.folder / str(row.settings["plan"]))
        return plan_baseline(row.method, plan, how.workload.num_steps, row.settings)
    found = families_of(read_bench(how.folder), pipe, how.workload)
    return next(family for family in found if family.name == row.family).baseline(row.settings)


def families_of(bench: Bench, pipe: Any, workload: Workload) -> list[Family]:
    """Rivals as they were when the table was made: what they had learnt is taken from it."""

    def recall(name: str, make: Callable[[], Any]) -> Any:
        return bench.learnt[name] if name in bench.learnt else make()

    def problem() -> Any:
        raise WorkloadError("the table does not hold everything that this method learns from a trace; measure it again")

    return families(pipe, Setup(workload.of("fit")[:CALIBRATED], workload.num_steps, recall, problem))
