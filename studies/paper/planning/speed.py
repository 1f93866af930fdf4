"""What the exact search takes: schedules scored per second, growth with its size, and a whole search at full size."""

import math
import multiprocessing
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import asdict, astuple, dataclass, replace
from functools import cache, partial
from pathlib import Path

import numpy as np

from hyca_calib.costs.budget import parse_budgets
from hyca_calib.costs.memory import STATUS, resident
from hyca_calib.quality.metrics import interval
from hyca_calib.search.candidate import partition
from hyca_calib.search.exact import best_schedules, gap_table
from hyca_calib.search.options import Tuning
from hyca_calib.search.problem import Problem
from hyca_calib.search.replay import schedule_cost
from hyca_calib.search.settings import Settings
from hyca_calib.search.taps import fit_solver
from hyca_calib.search.tune import CLUSTERERS, solve, tune
from hyca_calib.trace.store import Trace
from hyca_runtime.schedule import Schedule
from hyca_runtime.solvers import Newton, Solver
from studies.paper.chapter import Cell, Numbers, Part
from studies.paper.intervals import Ratio
from studies.paper.planning.baselines import draw, table_cost
from studies.paper.planning.instance import SETTINGS, Found, Instance, timed
from studies.paper.planning.synthetic import smooth_gram, write_trace
from studies.paper.words import table

BATCH = 8192
HISTORY, RIDGE = "history", 1e-3
TOLD = {"gap": "longest gap"}
BUDGETS, BRANCHES = "1.5x,3x,5x,7x,10x", 2


def throughput(s: Instance) -> Part:
    """Schedules per second of one core: the time is processor time, so load and threads do not flatter it."""
    rates: dict[tuple[str, str], Ratio] = {("from the table", str(count)): _tabled(s, count) for count in s.counts}
    middle = s.counts[len(s.counts) // 2]
    closed, fitted = (_single(s, middle, fitted=taps) for taps in (False, True))
    pays_after = s.table_seconds / (1 / fitted[0] - 1 / rates["from the table", str(middle)][0])
    numbers = {
        "from_table": {count: rate for (_, count), rate in rates.items()},
        "one_by_one": {"steps": middle, "closed form": closed, "fitted taps": fitted},
        "table_seconds": s.table_seconds,
        "pays_after": pays_after,
    }
    rates |= {("one by one, closed form", str(middle)): closed, ("one by one, fitted taps", str(middle)): fitted}
    facts = {"groups": len(s.fit), "seconds": s.table_seconds, "pays_after": pays_after}
    return Part(numbers, (table("schedules", "rates", rates, **facts),))


def _tabled(s: Instance, count: int) -> Ratio:
    """A batch of random schedules, summed over their gaps, again and again."""
    score = partial(table_cost, s.table, draw(s.steps, count, BATCH, s.rng(count)))
    score()
    return interval([BATCH / timed(score)[1] for _ in range(10 if s.quick else 200)], s.seed)


def _single(s: Instance, count: int, *, fitted: bool) -> Ratio:
    """Random schedules, each replayed through the runtime's solvers."""

    def replay(schedule: Schedule) -> None:
        solvers: list[Solver] = [Newton(1)] * len(s.fit)
        if fitted:
            solvers = [fit_solver(gram[None], schedule, s.times, SETTINGS.depth, SETTINGS.ridge) for gram in s.fit]
        schedule_cost(s.judge, schedule, s.times, s.problem.step_weights, solvers)

    drawn = draw(s.steps, count, 4 if s.quick else 40, s.rng(count)).tolist()
    schedules = [Schedule.from_steps(s.steps, computed) for computed in drawn]
    return interval([1 / timed(partial(replay, schedule))[1] for schedule in schedules], s.seed)


@dataclass(frozen=True)
class Size:
    """Of one search: channels with taps of their own, steps, computed steps that taps read, and the longest gap."""

    channels: int = 16
    steps: int = 50
    history: int = 3
    gap: int = 12


AXES = {"channels": (48, 192, 768, 3072), "steps": (20, 35, 50, 70, 100), HISTORY: (2, 3, 4), "gap": (6, 12, 24, 48)}
QUICK = {"channels": (8, 16, 32), "steps": (12, 16, 24), HISTORY: (2, 3, 4), "gap": (3, 6, 12)}
COSTS = ("table", "search", "peak")
"""Processor seconds of the table and of the search in it, and the most bytes that new arrays held meanwhile."""


def growth(s: Instance) -> Part:
    """Every axis on its own; the others stay where `Size` has them."""
    base, axes = (Size(8, 16, 3, 6), QUICK) if s.quick else (Size(), AXES)
    measure = cache(partial(_measure, seed=s.seed))
    found = {axis: {str(n): measure(replace(base, **{axis: n})) for n in sizes} for axis, sizes in axes.items()}
    growing = {axis: slopes(axis, costs) for axis, costs in found.items()}

    def told(axis: str, slope: float, error: float) -> str:
        if axis == HISTORY:
            return f"x {np.exp(slope):.1f} per step (x {np.exp(slope - error):.1f} to {np.exp(slope + error):.1f})"
        return f"{slope:.2f} ± {error:.2f}"

    costs = {
        (TOLD.get(axis, axis), n): (cost["table"], cost["search"], cost["peak"] / 1e6)
        for axis, costs in found.items()
        for n, cost in costs.items()
    }
    rates = {TOLD.get(axis, axis): [told(axis, *slope) for slope in of.values()] for axis, of in growing.items()}
    tables = table("schedules", "growth", costs), table("schedules", "slopes", rates, base=base)
    return Part({"base": asdict(base), "measured": found, "slopes": growing}, tables)


def _measure(size: Size, seed: int) -> dict[str, float]:
    """Time and memory in separate runs, since watching memory takes time; see `COSTS`."""
    rng = np.random.default_rng((seed, *astuple(size)))
    fit, judge = (smooth_gram(size.channels, size.steps, rng) for _ in range(2))
    times, weights = np.linspace(1, 1 / size.steps, size.steps), np.ones(size.steps)
    table = partial(gap_table, fit, judge, times, weights, size.history, RIDGE, size.gap)
    counts = range(1, 2 * size.steps // 3 + 1)
    made, table_seconds = _fastest(table)
    _, search_seconds = _fastest(partial(best_schedules, made, counts))
    del made
    tracemalloc.start()
    try:
        best_schedules(table(), counts)
        return {"table": table_seconds, "search": search_seconds, "peak": tracemalloc.get_traced_memory()[1]}
    finally:
        tracemalloc.stop()


def _fastest(function: Callable[[], Found]) -> tuple[Found, float]:
    """What it returns, and its processor time; what takes less than a second is timed three times."""
    found, seconds = timed(function)
    again = [timed(function)[1] for _ in range(2 if seconds < 1 else 0)]
    return found, min([seconds, *again])


def slopes(axis: str, costs: dict[str, dict[str, float]]) -> dict[str, tuple[float, float]]:
    """Slope of each logarithm and its standard error, by least squares: over log size, over history itself."""
    sizes = np.array([float(n) for n in costs])
    found = {}
    for name in COSTS:
        logs = np.log([cost[name] for cost in costs.values()])
        (slope, _), covariance = np.polyfit(sizes if axis == HISTORY else np.log(sizes), logs, 1, cov=True)
        found[name] = (float(slope), float(np.sqrt(covariance[0, 0])))
    return found


def full_size(s: Instance) -> Part:
    """Five budgets in one study at 3072 channels, 50 steps and two guidance branches."""
    channels, steps, tuning = (64, 20, Tuning(trials=3)) if s.quick else (3072, 50, Tuning(timeout=math.inf))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "synthetic.zarr"
        write_trace(path, channels, steps, BRANCHES, s.problem.trace, s.seed)
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            found = pool.apply(search, (path, BUDGETS, tuning, s.seed))
    grouped = {
        f"grouping by {name}, and a whole trial with it, s": f"{grouping:.2f}, {trial:.2f}"
        for name, (grouping, trial) in found["stages"].items()
    }
    cells: dict[str, Cell] = {
        f"reading the trace and {len(found['trials'])} trials, s": found["processor"],
        "one trial, median and longest, s": f"{np.median(found['trials']):.2f}, {max(found['trials']):.2f}",
        **grouped,
        "distinct schedules per budget": ", ".join(map(str, found["schedules"])),
        "peak resident memory, GiB": found["peak_bytes"] / 2**30,
    }
    size = {"channels": channels, "steps": steps, "branches": BRANCHES, "budgets": BUDGETS}
    rows = {name: [cell] for name, cell in cells.items()}
    return Part(size | found, (table("schedules", "full_size", rows, **size),))


def search(path: Path, budgets: str, tuning: Tuning, seed: int) -> Numbers:
    """Read a trace and tune on it; to be called in a fresh process, whose memory is nobody else's.

    Returns:
        Processor seconds from opening the trace to the last trial, all threads together, and of each of the ``trials``;
        the most resident memory until then; distinct ``schedules`` found for each budget; and processor seconds of
        grouping and of one whole trial, by clusterer, ``stages``.
    """
    begun = time.process_time()
    problem, wanted = Problem(Trace(path)), parse_budgets(budgets)
    ends, journal = [time.process_time()], path.with_name("journal.log")
    found = tune(problem, wanted, tuning, journal, seed, lambda *_: ends.append(time.process_time()))

    def stages(settings: Settings) -> tuple[float, float]:
        _, grouping = timed(partial(partition, problem, settings, seed))
        _, trial = timed(lambda: [candidate.cost for candidate in solve(problem, settings, wanted, seed)])
        return grouping, trial

    return {
        "peak_bytes": peak_bytes(),
        "processor": time.process_time() - begun,
        "trials": np.diff(ends).tolist(),
        "schedules": [len(candidates) for candidates in found.values()],
        "stages": {name: stages(Settings(clusterer=name)) for name in CLUSTERERS},
    }


def peak_bytes() -> int:
    """The most resident memory that this process has had.

    Linux tells it in the status of the process, for ``getrusage`` there also counts the parent's memory, from before
    the exec; elsewhere (macOS) ``getrusage`` tells it.
    """
    if STATUS.exists():
        return resident("VmHWM")
    import resource  # Unix only

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
