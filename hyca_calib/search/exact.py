r"""The cheapest schedule, exactly.

The objective is a sum over gaps, and a gap costs what its history (the last `depth` <= 3 computed
steps) and its length say. So the best schedule with K computed steps is a shortest path over states
(newest step a, gap before it g1, gap before that g2), solved by dynamic programming: no annealing,
no local optimum. Gaps are limited to `max_gap`, which bounds the table at
``steps * max_gap^3`` entries whatever the number of channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from hyca_calib.replay import rows_of
from hyca_calib.search.taps import fit_rows
from hyca_runtime.schedule import Schedule
from hyca_runtime.solvers import Newton

__all__ = ["GapTable", "best_schedules", "gap_table", "table_cost"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class GapTable:
    """Cost of every gap.

    Attributes:
        first: ``(m,)``: step 0 alone, next computed step m.
        second: ``(a, m)``: history (a, 0), next computed step a + m.
        rest: ``(a, g1, g2, m)``: history (a, a - g1, a - g1 - g2).

    Index m counts from 0 = impossible; m = 1 predicts nothing and costs nothing.
    """

    first: Array
    second: Array
    rest: Array

    @property
    def num_steps(self) -> int:
        return len(self.rest)

    @property
    def max_gap(self) -> int:
        return len(self.first) - 1


def gap_table(
    fit: Array, judge: Array, times: Array, step_weights: Array, depth: int, ridge: float, max_gap: int
) -> GapTable:
    """Costs of all gaps under taps fitted on one split and judged on another.

    Args:
        fit, judge: ``(group, step, step)``.
        times: ``(step,)`` on the solvers' axis.
        step_weights: ``(step,)``, see `hyca_calib.replay`.
        depth: taps used, 1 to 3.
        max_gap: largest distance between computed steps.
    """
    steps = fit.shape[1]
    ahead = np.arange(1, max_gap)

    ends = _squared_sums(judge.sum(0) * np.outer(step_weights, step_weights), len(ahead))

    @cache
    def extrapolated(a: int, gap: int) -> Array:
        return rows_of(Newton(1), times, (a, a - gap)[: 1 + (gap > 0)], np.minimum(a + ahead, steps - 1))

    def costs(newest: NDArray[np.int64], *gaps: int) -> Array:
        """``(len(newest), max_gap + 1)`` of histories with the same gaps, at once."""
        history = newest[:, None] - np.cumsum([0, *gaps][:depth])
        prior = np.zeros((len(newest), history.shape[1], len(ahead)))
        for row, a in zip(prior, newest, strict=True):
            linear = extrapolated(int(a), gaps[0] if history.shape[1] > 1 else 0)
            row[: len(linear)] = linear
        targets = newest[:, None] + ahead
        inside = np.minimum(targets, steps - 1)
        weights = np.where(targets < steps, step_weights[inside], 0.0)[:, None]
        # |sum_t a_t d_t|^2 with the taps summed first: every m shares the products of the m before
        summed = (weights * fit_rows(fit, history, inside, ridge, prior)).cumsum(-1)
        past, cross = (judge[:, history[..., :, None], b[..., None, :]] for b in (history, inside))
        product = past @ summed - 2 * (weights * cross).cumsum(-1)
        out = np.full((len(newest), max_gap + 1), np.inf)
        out[:, 1] = 0.0
        out[:, 2:] = np.einsum("gnkm,gnkm->nm", summed, product) + ends[newest]
        return np.where(newest[:, None] + np.arange(max_gap + 1) <= steps, out, np.inf)

    start = np.zeros(1, dtype=np.int64)
    first = costs(start)[0]
    second = np.full((steps, max_gap + 1), np.inf)
    rest = np.full((steps, max_gap + 1, max_gap + 1, max_gap + 1), np.inf)
    for a in range(1, min(max_gap, steps - 1) + 1):
        second[a] = costs(start + a, a)[0]
    for g1 in range(1, max_gap + 1):
        if depth < 3:  # the third step back plays no part
            newest = np.arange(g1 + 1, steps)
            seen = costs(newest, g1) if newest.size else None
        for g2 in range(1, max_gap + 1):
            newest = np.arange(g1 + g2, steps)
            if newest.size:
                rest[newest, g1, g2] = costs(newest, g1, g2) if depth > 2 or seen is None else seen[-len(newest) :]
    return GapTable(first, second, rest)


def _squared_sums(gram: Array, most: int) -> Array:
    """Sums of the blocks of m targets after each step, ``(step, m - 1)``."""
    steps = len(gram)
    out = np.zeros((steps, most))
    for a in range(steps - 1):
        block = gram[a + 1 : a + 1 + most, a + 1 : a + 1 + most].cumsum(0).cumsum(1).diagonal()
        out[a, : len(block)] = block
    return out


def best_schedules(table: GapTable, counts: range, start: int = 1) -> dict[int, Schedule]:
    """The cheapest schedule for each number of computed steps in `counts`.

    Args:
        start: this many first steps are computed whatever the table says.
    """
    steps, gap = table.num_steps, table.max_gap
    most = max(2, *counts)
    # value[k][a, g1, g2]: k computed steps, the newest at a; `pick` remembers the g2 it came with.
    values = [np.full((steps + 1, gap + 1, gap + 1), np.inf) for _ in range(most + 2)]
    picks = [np.zeros((steps + 1, gap + 1, gap + 1), dtype=np.int64) for _ in range(most + 2)]
    pairs = np.full((steps + 1, gap + 1), np.inf)  # two computed steps: a - g1 = 0
    for m in range(1, gap + 1):
        if (start < 2 or m == 1) and m <= steps:
            pairs[m, m] = table.first[m]
    for a in range(1, min(gap, steps - 1) + 1):
        for m in range(1, min(gap, steps - a) + 1):
            if start < 3 or m == 1:
                values[3][a + m, m, a] = pairs[a, a] + table.second[a, m]
    for k in range(3, most + 1):
        for m in range(1, gap + 1):
            if k < start and m > 1:
                continue
            reachable = steps + 1 - m
            before = values[k][:reachable, :, :]
            padded = np.full((reachable, gap + 1, gap + 1), np.inf)
            rows = min(reachable, steps)
            padded[:rows] = before[:rows] + table.rest[:rows, :, :, m]
            best = padded.argmin(axis=2)
            values[k + 1][m : m + reachable, m, :] = np.take_along_axis(padded, best[..., None], 2)[..., 0]
            picks[k + 1][m : m + reachable, m, :] = best
    found = {}
    for count in counts:
        computed = _single(table, count, pairs) if count < 3 else _trace_back(values, picks, steps, count)
        if computed is not None:
            found[count] = Schedule.from_steps(steps, computed)
    return found


def _single(table: GapTable, count: int, pairs: Array) -> list[int] | None:
    """Schedules of one or two computed steps; the end of the run is the last gap's far side."""
    steps, gap = table.num_steps, table.max_gap
    if count == 1:
        return [0] if steps <= gap else None
    options = {a: pairs[a, a] + table.second[a, steps - a] for a in range(max(1, steps - gap), min(gap, steps - 1) + 1)}
    return [0, min(options, key=lambda a: options[a])] if options else None


def _trace_back(values: list[Array], picks: list[NDArray[np.int64]], steps: int, count: int) -> list[int] | None:
    """Computed steps of the cheapest path of `count` steps; the virtual step `steps` closes the last gap."""
    final = values[count + 1][steps]
    if not np.isfinite(final).any():
        return None
    g1, g2 = (int(i) for i in np.unravel_index(int(final.argmin()), final.shape))
    a, k = steps, count + 1
    path = [a]
    while k > 3:
        g3 = int(picks[k][a, g1, g2])
        a, g1, g2, k = a - g1, g2, g3, k - 1
        path.append(a)
    path += [a - g1, a - g1 - g2]
    return sorted(set(path) - {steps})


def table_cost(table: GapTable, computed: NDArray[np.int64]) -> Array:
    """Costs ``(n,)`` of many schedules of equally many steps at once.

    Args:
        computed: ``(n, K)`` ascending computed steps, the first of them 0, K at least 3.
    """
    ends = np.concatenate([computed, np.full((len(computed), 1), table.num_steps)], axis=1)
    gaps = np.diff(ends, axis=1)
    within = gaps.max(axis=1) <= table.max_gap
    g = np.minimum(gaps, table.max_gap)
    total = table.first[g[:, 0]] + table.second[np.minimum(computed[:, 1], table.num_steps - 1), g[:, 1]]
    total += table.rest[computed[:, 2:], g[:, 1:-1], g[:, :-2], g[:, 2:]].sum(axis=1)
    return np.where(within, total, np.inf)
