"""Work for processes that tests start and kill: a trace and a search of the tiny model."""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any
from unittest import mock

import tiny
import torch
from storage import record

from hyca_calib.costs.budget import Budget
from hyca_calib.pipelines.workload import Workload
from hyca_calib.search.error_damping import with_damping
from hyca_calib.search.options import Refinement, RolloutLimits, SearchOptions, Tuning
from hyca_calib.search.problem import Problem
from hyca_calib.search.rollout_error import raced_psnr
from hyca_calib.search.run import search
from hyca_calib.search.storage import Storage
from hyca_calib.search.study import StudyFolder
from hyca_calib.search.tune import tune
from hyca_calib.trace.store import Trace

__all__ = [
    "NAMES",
    "TRIALS",
    "killed_after",
    "killed_in_a_rollout",
    "peaks_of_traces",
    "trace_and_search",
    "waiting_for_a_death",
]

PROBES, TRIALS, ROLLOUTS, ITERATIONS = 2, 4, 4, 2
NAMES = ("t.zarr", "study")


def workload() -> Workload:
    return Workload(tiny.prompts(), num_samples=7, num_steps=12, seed=3)


def trace_and_search(folder: Path, storage: Storage | None = None, workers: int = 1) -> None:
    """Everything that is not there yet; ends by numbers, never by the clock."""
    os.chdir(folder)
    torch.set_num_threads(1)
    path, where = NAMES
    record(path, workload(), batch=2)
    pipe, budget = tiny.pipeline(), Budget.parse("3x")
    study = StudyFolder.open(Path(where), {"budget": "3x"})
    if study.complete:
        return
    problem = with_damping(pipe, Problem(Trace(path)), storage or study.journal, PROBES)
    tuning = Tuning(trials=TRIALS, timeout=3600)
    candidates = tune(problem, (budget,), tuning, storage or study.journal, 0)[budget]
    options = SearchOptions(
        RolloutLimits(minutes=60, finalists=3, rollouts=ROLLOUTS, workers=workers),
        Refinement(minutes=60, iterations=ITERATIONS, batch=2, evaluations=4),
        storage=storage,
    )
    search(pipe, [candidates], budget, study, options)


def peaks_of_traces(folder: Path, counts: Sequence[int], told: Connection) -> None:
    """Traces of so many samples each; after each the most bytes so far, beyond those before the first, are told."""
    torch.set_num_threads(1)
    pipe = tiny.pipeline()
    pipe("red heart", num_inference_steps=2)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for count in counts:
        record(folder / f"{count}.zarr", Workload(tiny.prompts(), count, 12, seed=3), pipe, batch=8, tokens=16)
        told.send(1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))


def killed_after(seconds: float, folder: Path, spent: Any) -> None:
    """The work, ended as by ``kill -9`` after so much processor time; what all of it takes is told in `spent`."""
    signal.setitimer(signal.ITIMER_PROF, seconds)
    trace_and_search(folder)
    spent.value = time.process_time()


def killed_in_a_rollout(folder: Path, storage: Storage) -> None:
    """One of two workers, which dies as soon as it holds a rollout."""
    with mock.patch("hyca_calib.search.run.raced_psnr", side_effect=lambda *_: os.kill(os.getpid(), signal.SIGKILL)):
        trace_and_search(folder, storage, workers=2)


def waiting_for_a_death(folder: Path, storage: Storage, dead: Event) -> None:
    """The other one, which ends no rollout before."""

    def rollout(*given: Any) -> list[float]:
        dead.wait()
        return raced_psnr(*given)

    with mock.patch("hyca_calib.search.run.raced_psnr", rollout):
        trace_and_search(folder, storage, workers=2)
