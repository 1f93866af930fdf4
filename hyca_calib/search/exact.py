r"""The cheapest schedule, exactly.

The objective is a sum over gaps, and a gap costs what its history (the last `depth` <= 3 computed
steps) and its length say. So the best schedule with K computed steps is a shortest path over states
(newest step a, gap before it g1, gap before that g2), solved by dynamic programming: no annealing,
no local optimum. Gaps are limited to `max_gap`, which bounds the table at
``steps * max_gap^3`` entries whatever the number of channels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hyca_calib.replay import residual_gram
from hyca_calib.search.taps import fit_rows
from hyca_runtime.schedule import Schedule

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
    reach = max_gap + 1

    def costs(history: tuple[int, ...]) -> Array:
        last = min(history[0] + max_gap, steps)
        out = np.full(reach, np.inf)
        out[1] = 0.0 if history[0] + 1 <= steps else np.inf
        targets = list(range(history[0] + 1, last))
        if targets:
            used = history[:depth]
            taps = fit_rows(fit, times, used, targets, ridge)
            residuals = residual_gram(judge, taps, used, targets).sum(0)
            weighted = residuals * np.outer(step_weights[targets], step_weights[targets])
            out[2 : 2 + len(targets)] = np.diagonal(weighted.cumsum(0).cumsum(1))
        return out

    first = costs((0,))
    second = np.full((steps, reach), np.inf)
    rest = np.full((steps, reach, reach, reach), np.inf)
    for a in range(1, steps):
        if a <= max_gap:
            second[a] = costs((a, 0))
        for g1 in range(1, min(max_gap, a) + 1):
            seen: Array | None = None
            for g2 in range(1, min(max_gap, a - g1) + 1):
                if depth < 3:  # the third step back plays no part
                    seen = costs((a, a - g1)) if seen is None else seen
                    rest[a, g1, g2] = seen
                else:
                    rest[a, g1, g2] = costs((a, a - g1, a - g1 - g2))
    return GapTable(first, second, rest)


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
