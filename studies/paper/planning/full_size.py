"""The whole offline search on a Gram of a large model's size, in a process of its own."""

from __future__ import annotations

import math
import multiprocessing
import os
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np

from hyca_calib.costs.budget import Budget, parse_budgets
from hyca_calib.costs.memory import peak_bytes
from hyca_calib.search.candidate import Settings, partition
from hyca_calib.search.options import Tuning
from hyca_calib.search.problem import Problem
from hyca_calib.search.tune import solve, tune
from hyca_calib.trace.store import Trace
from studies.paper.chapter import Part, Table
from studies.paper.groups.subject import CLUSTERERS
from studies.paper.planning.instance import Instance, timed
from studies.paper.planning.synthetic import write_trace

BUDGETS = "1.5x,3x,5x,7x,10x"
BRANCHES = 2


@dataclass(frozen=True)
class Measured:
    """One offline search.

    Attributes:
        cores: that the process may use.
        start_bytes, peak_bytes: resident memory before the trace was read, and the most until the search ended.
        clock: seconds from opening the trace to the last trial, while others may have had the cores.
        processor: the same in processor time, all threads together.
        trials: processor seconds of each.
        schedules: distinct ones found for each budget.
        stages: processor seconds of grouping and of one whole trial, by clusterer.
    """

    cores: int
    start_bytes: int
    peak_bytes: int
    clock: float
    processor: float
    trials: list[float]
    schedules: list[int]
    stages: dict[str, tuple[float, float]]


def full_size(s: Instance) -> Part:
    """Five budgets in one study at 3072 channels, 50 steps and two guidance branches."""
    channels, steps, tuning = (64, 20, Tuning(trials=3)) if s.quick else (3072, 50, Tuning(timeout=math.inf))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "synthetic.zarr"
        write_trace(path, channels, steps, BRANCHES, s.problem.trace.cost, s.seed)
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found = pool.apply(search, (path, BUDGETS, tuning, s.seed))
    numbers = {"channels": channels, "steps": steps, "branches": BRANCHES, "budgets": BUDGETS, **asdict(found)}
    size = f"{channels} channels, {steps} steps and {BRANCHES} branches"
    return Part((_table(found, size),), numbers)


def search(path: Path, budgets: str, tuning: Tuning, seed: int) -> Measured:
    """Read a trace and tune on it; to be called in a fresh process, whose memory is nobody else's."""
    started, clock, processor = peak_bytes(), time.perf_counter(), time.process_time()
    problem, wanted = Problem(Trace(path)), parse_budgets(budgets)
    ends = [time.process_time()]
    found = tune(
        problem, wanted, tuning, path.with_name("journal.log"), seed, lambda *_: ends.append(time.process_time())
    )
    return Measured(
        cores=len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1,
        start_bytes=started,
        peak_bytes=peak_bytes(),
        clock=time.perf_counter() - clock,
        processor=time.process_time() - processor,
        trials=np.diff(ends).tolist(),
        schedules=[len(candidates) for candidates in found.values()],
        stages={name: _stages(problem, Settings(clusterer=name), wanted, seed) for name in CLUSTERERS},
    )


def _stages(problem: Problem, settings: Settings, budgets: tuple[Budget, ...], seed: int) -> tuple[float, float]:
    _, grouping = timed(partial(partition, problem, settings, seed))
    _, trial = timed(lambda: [candidate.cost for candidate in solve(problem, settings, budgets, seed)])
    return grouping, trial


def _table(found: Measured, size: str) -> Table:
    cells: dict[str, tuple[str | float]] = {
        f"reading the trace and {len(found.trials)} trials, s": (found.processor,),
        "one trial, median and longest, s": (f"{np.median(found.trials):.2f}, {max(found.trials):.2f}",),
        **{
            f"grouping by {name}, and a whole trial with it, s": (f"{grouping:.2f}, {trial:.2f}",)
            for name, (grouping, trial) in found.stages.items()
        },
        "distinct schedules per budget": (", ".join(map(str, found.schedules)),),
        "peak resident memory, GiB": (found.peak_bytes / 2**30,),
    }
    caption = (
        f"The offline search for budgets {BUDGETS} in one study, on a synthetic trace of {size}, written and read as "
        "any other; branches enter as a sum of their Gram matrices. Seconds of processor time."
    )
    return Table.of(caption, ("", "measured"), cells)
