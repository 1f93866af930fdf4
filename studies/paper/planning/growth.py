"""How do time and memory of the exact search grow with channels, steps, history and the longest gap?"""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable
from dataclasses import asdict, astuple, dataclass, replace
from functools import cache, partial
from typing import TypeVar

import numpy as np

from hyca_calib.search.exact import best_schedules, gap_table
from studies.paper.chapter import Part, Table
from studies.paper.planning.instance import Instance, timed
from studies.paper.planning.synthetic import smooth_gram

Found = TypeVar("Found")

HISTORY, RIDGE = "history", 1e-3
TOLD = {"gap": "longest gap"}


@dataclass(frozen=True)
class Size:
    """Of one search.

    Attributes:
        channels: Gram matrices, each with its own taps.
        history: computed steps that taps read.
        gap: longest distance between computed steps.
    """

    channels: int = 16
    steps: int = 50
    history: int = 3
    gap: int = 12


@dataclass(frozen=True)
class Cost:
    """Processor seconds of the table and of the search in it, and the most bytes that new arrays held meanwhile."""

    table: float
    search: float
    peak: int


AXES: dict[str, tuple[int, ...]] = {
    "channels": (48, 192, 768, 3072),
    "steps": (20, 35, 50, 70, 100),
    HISTORY: (2, 3, 4),
    "gap": (6, 12, 24, 48),
}
QUICK: dict[str, tuple[int, ...]] = {
    "channels": (8, 16, 32),
    "steps": (12, 16, 24),
    HISTORY: (2, 3, 4),
    "gap": (3, 6, 12),
}


def growth(s: Instance) -> Part:
    """Every axis on its own; the others stay where `Size` has them."""
    base, axes = (Size(8, 16, 3, 6), QUICK) if s.quick else (Size(), AXES)
    measure = cache(partial(_measure, seed=s.seed))
    found = {axis: {n: measure(replace(base, **{axis: n})) for n in sizes} for axis, sizes in axes.items()}
    slopes = {axis: _slopes(axis, costs) for axis, costs in found.items()}
    numbers = {
        "base": asdict(base),
        "measured": {axis: {str(n): asdict(cost) for n, cost in costs.items()} for axis, costs in found.items()},
        "slopes": slopes,
    }
    return Part((_table(found), _slope_table(base, slopes)), numbers)


def _measure(size: Size, seed: int) -> Cost:
    """Time and memory in separate runs, since watching memory takes time."""
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
        return Cost(table_seconds, search_seconds, tracemalloc.get_traced_memory()[1])
    finally:
        tracemalloc.stop()


def _fastest(function: Callable[[], Found]) -> tuple[Found, float]:
    """What it returns, and its processor time; what takes less than a second is timed three times."""
    found, seconds = timed(function)
    again = [timed(function)[1] for _ in range(2 if seconds < 1 else 0)]
    return found, min([seconds, *again])


def _slopes(axis: str, costs: dict[int, Cost]) -> dict[str, tuple[float, float]]:
    """Slope of each logarithm and its standard error, by least squares: over log size, over history itself."""
    sizes = np.array(list(costs), dtype=np.float64)
    found = {}
    for name in ("table", "search", "peak"):
        logs = np.log([getattr(cost, name) for cost in costs.values()])
        (slope, _), covariance = np.polyfit(sizes if axis == HISTORY else np.log(sizes), logs, 1, cov=True)
        found[name] = (float(slope), float(np.sqrt(covariance[0, 0])))
    return found


def _table(found: dict[str, dict[int, Cost]]) -> Table:
    rows = tuple(
        (TOLD.get(axis, axis), str(n), cost.table, cost.search, cost.peak / 1e6)
        for axis, costs in found.items()
        for n, cost in costs.items()
    )
    caption = (
        "The exact search on synthetic smooth trajectories, every channel with its own taps: seconds of one core for "
        "the table of gap costs and for the best schedules of all numbers of steps up to two thirds, and the most "
        "memory that arrays held meanwhile, the Gram matrices themselves apart."
    )
    return Table(caption, ("varied", "size", "table s", "search s", "peak MB"), rows)


def _slope_table(base: Size, slopes: dict[str, dict[str, tuple[float, float]]]) -> Table:
    def cell(axis: str, slope: float, error: float) -> str:
        if axis == HISTORY:
            return f"x {np.exp(slope):.1f} per step (x {np.exp(slope - error):.1f} to {np.exp(slope + error):.1f})"
        return f"{slope:.2f} ± {error:.2f}"

    cells = {TOLD.get(axis, axis): [cell(axis, *slope) for slope in of.values()] for axis, of in slopes.items()}
    caption = (
        "How that grows: exponents, slopes by least squares in log space with standard errors; for history the factor "
        f"of each further step. What is not varied stays at {base.channels} channels, {base.steps} steps, history "
        f"{base.history} and gaps up to {base.gap} steps. Where channels share taps in groups, only groups count."
    )
    return Table.of(caption, ("varied", "table", "search", "memory"), cells)
