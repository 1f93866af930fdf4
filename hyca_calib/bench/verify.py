"""Published rows measured again: a random part of them, each in a process of its own."""

import multiprocessing
import random
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property, partial
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

import torch

from hyca_calib.baselines import Baseline, Family, Setup, families
from hyca_calib.bench.comparison import plan_baseline
from hyca_calib.bench.results import Bench, Row, read_bench
from hyca_calib.pipelines.workload import Job, Workload
from hyca_calib.quality.evaluate import SampledRun, run_untimed
from hyca_runtime import load_plan
from hyca_runtime.errors import WorkloadError

TOLERANCE_DB, TOLERANCE_COST = 0.01, 0.001
CALIBRATED = 8
"""Samples of the fit split on which baselines are calibrated."""


@dataclass(frozen=True)
class RemeasuredRow:
    """A row, measured again on its first batch; on all samples where that batch costs something else than their mean.

    Attributes:
        published_db, found_db: agreement of each sample.
        cost_off_by: share that its FLOPs are off by.
    """

    method: str
    published_db: tuple[float, ...]
    found_db: tuple[float, ...] = ()
    cost_off_by: float = 0.0
    error: str = ""

    @property
    def off_by(self) -> float:
        """The largest difference of a sample, dB; infinite without a figure, or of another cost."""
        if self.cost_off_by > TOLERANCE_COST:
            return float("inf")
        pairs = list(zip(self.published_db, self.found_db, strict=False))
        return max((abs(a - b) for a, b in pairs), default=float("inf"))

    @property
    def told(self) -> str:
        """What is wrong with it, if anything is."""
        if self.cost_off_by > TOLERANCE_COST:
            return self.error or f"FLOPs {100 * self.cost_off_by:.1f} % off"
        return self.error or f"{self.off_by:.3f} dB"


@dataclass(frozen=True)
class Verification:
    """How published rows are measured again.

    Attributes:
        load: makes the pipeline; found by name in a new process, so a function of a module.
    """

    folder: Path
    load: Callable[[], Any]
    workload: Workload

    @cached_property
    def _bench(self) -> Bench:
        return read_bench(self.folder)

    def rows(self, rows: Sequence[Row]) -> Iterator[RemeasuredRow]:
        """Measure these again, each in a process of its own.

        Raises:
            WorkloadError: the table was made on other samples.
        """
        facts = self._bench.facts
        if facts.workload.digest != self.workload.digest:
            raise WorkloadError(f"{self.folder} was measured on other prompts, steps or seeds; give the same --prompts")
        jobs = self.workload.of("test")[: facts.batch]
        torch.set_num_threads(facts.threads)
        full = run_untimed(self.load(), jobs, self.workload.num_steps, facts.batch, nullcontext)
        fresh = _fresh_processes()
        with ProcessPoolExecutor(1, mp_context=fresh, max_tasks_per_child=1) as pool:
            yield from pool.map(partial(self._remeasured, jobs, full), rows)

    def _remeasured(self, jobs: Sequence[Job], full: SampledRun, row: Row) -> RemeasuredRow:
        facts = self._bench.facts
        torch.set_num_threads(facts.threads)
        published = row.result.agreement_db_each[: len(jobs)] if row.result else ()

        def off_by(run: SampledRun) -> float:
            return abs(full.flops.networks / run.flops.networks / row.result.flops_ratio - 1) if row.result else 0.0

        try:
            pipe = self.load()
            baseline = self._baseline(pipe, row)
            batch = baseline.batch(facts.batch)
            run = run_untimed(pipe, jobs, baseline.steps, batch, lambda: baseline.applied(pipe))
            off = off_by(run)
            if off > TOLERANCE_COST:  # it decides by batch or sample, and the mean over all is published
                every = self.workload.of("test")
                off = off_by(run_untimed(pipe, every, baseline.steps, batch, lambda: baseline.applied(pipe)))
        except Exception as error:  # foreign code may raise anything
            return RemeasuredRow(row.method, published, error=f"{type(error).__name__}: {error}")
        return RemeasuredRow(row.method, published, run.fidelity_to(full).agreement_db, off)

    def _baseline(self, pipe: Any, row: Row) -> Baseline:
        if row.ours:
            plan = load_plan(self.folder / str(row.settings["plan"]))
            return plan_baseline(row.method, plan, self.workload.num_steps, row.settings)
        found = families_of(self._bench, pipe, self.workload)
        return next(family for family in found if family.name == row.family).baseline(row.settings)


def _fresh_processes() -> BaseContext:
    """Processes in which no pipeline was ever made: copies of one that has imported our code and done nothing else."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    return context


def random_rows(bench: Bench, share: float, seed: int) -> list[Row]:
    """A random part of the rows that have figures, at least one."""
    known = [row for row in bench.rows if row.result and row.settings]
    return random.Random(seed).sample(known, min(len(known), max(1, round(share * len(known)))))


def families_of(bench: Bench, pipe: Any, workload: Workload) -> list[Family]:
    """Baselines as they were when the table was made: what they had learnt is taken from it."""

    def recall(name: str, make: Callable[[], Any]) -> Any:
        return bench.learnt[name] if name in bench.learnt else make()

    def problem() -> Any:
        raise WorkloadError("the table does not hold everything that this method learns from a trace; measure it again")

    return families(pipe, Setup(workload.of("fit")[:CALIBRATED], workload.num_steps, recall, problem))
