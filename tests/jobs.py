"""Work for processes that tests start and kill: a trace and a search of the tiny model."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import tiny
import torch
from storage import record

from hyca_calib.costs.budget import Budget
from hyca_calib.pipelines.workload import Workload
from hyca_calib.search.error_damping import with_damping
from hyca_calib.search.options import Refinement, RolloutLimits, SearchOptions, Tuning
from hyca_calib.search.problem import Problem
from hyca_calib.search.run import search
from hyca_calib.search.storage import Storage
from hyca_calib.search.study import StudyFolder
from hyca_calib.search.tune import tune
from hyca_calib.trace.store import Trace

__all__ = ["NAMES", "TRIALS", "trace_and_search"]

PROBES, TRIALS, ROLLOUTS, ITERATIONS = 4, 8, 16, 8
NAMES = ("t.zarr", "study")


def workload() -> Workload:
    return Workload(tiny.prompts(), num_samples=14, num_steps=12, seed=3)


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


if __name__ == "__main__":
    trace_and_search(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
