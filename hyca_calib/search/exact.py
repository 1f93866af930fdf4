r"""The cheapest schedule, exactly.

The objective is a sum over gaps, and a gap costs what its history (the last `depth` computed steps)
and its length say. So the best schedule with K computed steps is a shortest path over states (newest
step a, gaps g1, g2, .. back to the steps before it), solved by dynamic programming: no annealing, no
local optimum. Gaps are limited to `max_gap`, which bounds the table at ``steps * max_gap^depth``
entries whatever the number of channels; runs of many hundreds of steps are searched with shorter histories and
gaps, see `affordable`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hyca_calib.search.replay import Array, rows_of
from hyca_calib.search.stopwatch import Pulse, no_pulse
from hyca_calib.search.taps import fit_rows
from hyca_runtime.schedule import Schedule
from hyca_runtime.solvers import Newton

Steps = NDArray[np.int64]

MOST_CELLS = 1 << 26
"""Entries of a table, once for each group, that one search looks at: some ten seconds on one core."""

BLOCK = 32
"""Groups whose gaps are costed at once: as many as keep their intermediate results in the processor's cache."""


@dataclass(frozen=True)
class GapTable:
    """Cost of every gap.

    Attributes:
        histories: entry h - 1 is for histories of h computed steps, ``(a, g1, .., g(h-1), m)``: the newest
            step a, the gaps from it back to the others, and the distance m to the next computed step.
            The last entry serves longer histories too; the others hold only histories that begin at step 0.

    Gaps and m count from 0 = impossible; m = 1 predicts nothing and costs nothing.
    """

    histories: tuple[Array, ...]

    @property
    def num_steps(self) -> int:
        return len(self.histories[0])

    @property
    def max_gap(self) -> int:
        return int(self.histories[0].shape[1]) - 1


def affordable(steps: int, groups: int, depth: int, narrow: int, wide: int) -> tuple[int, int]:
    """History and longest gap of a table of at most `MOST_CELLS`: those asked for, of long runs smaller ones.

    Args:
        depth: taps used.
        narrow, wide: the longest gap that will just do, and the one asked for.
    """
    for taps in range(max(2, depth), 1, -1):
        for gap in range(wide, narrow - 1, -1):
            if groups * _cells(steps, gap, taps) <= MOST_CELLS:
                return min(depth, taps), gap
    return min(depth, 2), narrow


def _cells(steps: int, gap: int, taps: int) -> int:
    """Entries for histories of `taps` computed steps."""
    reach = np.ones(1)  # how many histories reach back so far
    for _ in range(taps - 1):
        reach = np.convolve(reach, np.r_[0.0, np.ones(gap)])
    return gap * int(reach @ np.maximum(steps - np.arange(len(reach)), 0))


def gap_table(
    fit: Array,
    judge: Array,
    times: Array,
    step_weights: Array,
    depth: int,
    ridge: float,
    max_gap: int,
    pulse: Pulse = no_pulse,
) -> GapTable:
    """Costs of all gaps under taps fitted on one split and judged on another.

    Args:
        fit, judge: ``(group, step, step)``.
        times: ``(step,)`` on the solvers' axis.
        step_weights: ``(step,)``, see `hyca_calib.search.replay`.
        depth: taps used, at least 1.
        max_gap: largest distance between computed steps.
    """
    steps = fit.shape[1]
    ahead = np.arange(1, max_gap)
    ends = _squared_sums(judge.sum(0) * np.outer(step_weights, step_weights), len(ahead))
    blocks = [(fit[i : i + BLOCK], judge[i : i + BLOCK]) for i in range(0, len(fit), BLOCK)]
    lines = _lines(times, ahead, max_gap if depth > 1 else 0)

    def costs(newest: Steps, *gaps: int) -> Array:
        """``(len(newest), max_gap + 1)`` of histories with the same gaps, at once."""
        history = newest[:, None] - np.cumsum([0, *gaps][:depth])
        prior = np.zeros((len(newest), history.shape[1], len(ahead)))
        prior[:, :2] = lines[newest, gaps[0] if history.shape[1] > 1 else 0, : history.shape[1]]
        targets = newest[:, None] + ahead
        inside = np.minimum(targets, steps - 1)
        weights = np.where(targets < steps, step_weights[inside], 0.0)[:, None]
        out = np.full((len(newest), max_gap + 1), np.inf)
        out[:, 1] = 0.0
        out[:, 2:] = ends[newest]
        for fitted, judged in blocks:
            # |sum_t a_t d_t|^2 with the taps summed first: every m shares the products of the m before
            summed = (weights * fit_rows(fitted, history, inside, ridge, prior)).cumsum(-1)
            past, cross = (judged[:, history[..., :, None], b[..., None, :]] for b in (history, inside))
            product = past @ summed - 2 * (weights * cross).cumsum(-1)
            out[:, 2:] += np.einsum("gnkm,gnkm->nm", summed, product)
        return np.where(newest[:, None] + np.arange(max_gap + 1) <= steps, out, np.inf)

    return _tabulate(costs, steps, max_gap, max(2, depth), pulse)  # a state has at least one gap


def _tabulate(costs: Callable[..., Array], steps: int, max_gap: int, longest: int, pulse: Pulse) -> GapTable:
    """`costs` of all histories of up to `longest` computed steps."""
    histories = []
    for length in range(1, longest + 1):
        table = np.full((steps, *[max_gap + 1] * length), np.inf)
        for gaps in itertools.product(range(1, max_gap + 1), repeat=length - 1):
            first = sum(gaps)
            newest = np.arange(first, steps if length == longest else min(first + 1, steps))
            if newest.size:
                pulse()
                at: tuple[Any, ...] = (newest, *gaps)
                table[at] = costs(newest, *gaps)
        histories.append(table)
    return GapTable(tuple(histories))


def _lines(times: Array, ahead: Steps, max_gap: int) -> Array:
    """Weights of linear extrapolation from steps a and a - g, ``(a, g, tap, target)``; of a alone for g = 0."""
    steps = len(times)
    out = np.zeros((steps, max_gap + 1, 2, len(ahead)))
    for a in range(steps):
        targets = np.minimum(a + ahead, steps - 1).tolist()
        for gap in range(min(max_gap, a) + 1):
            history = (a, a - gap) if gap else (a,)
            out[a, gap, : len(history)] = rows_of(Newton(1), times, history, targets)
    return out


def _squared_sums(gram: Array, most: int) -> Array:
    """Sums of the blocks of m targets after each step, ``(step, m - 1)``."""
    steps = len(gram)
    out = np.zeros((steps, most))
    for a in range(steps - 1):
        block = gram[a + 1 : a + 1 + most, a + 1 : a + 1 + most].cumsum(0).cumsum(1).diagonal()
        out[a, : len(block)] = block
    return out


def best_schedules(table: GapTable, counts: range, start: int = 1, pulse: Pulse = no_pulse) -> dict[int, Schedule]:
    """The cheapest schedule for each number of computed steps in `counts`.

    Args:
        start: this many first steps are computed whatever the table says.
    """
    steps, gap, longest = table.num_steps, table.max_gap, len(table.histories)
    value: Array = np.full(steps + 1, np.inf)  # (a, g1, ..): the cheapest way to compute k steps, the newest at a
    value[0] = 0.0
    picks: dict[int, NDArray[np.int16]] = {}  # the oldest gap of the state before, which the state forgets
    found = {}
    for k in range(1, max(counts) + 1):
        pulse()
        costs = table.histories[min(k, longest) - 1]
        after = np.full((steps + 1, *[gap + 1] * min(k, longest - 1)), np.inf)
        picks[k + 1] = np.zeros(after.shape if k >= longest else 0, dtype=np.int16)
        for m in range(1, (gap if k >= start else 1) + 1):
            total = value[: steps + 1 - m] + costs[: steps + 1 - m, ..., m]
            if k >= longest:
                oldest = total.argmin(-1)
                picks[k + 1][m:, m] = oldest
                total = np.take_along_axis(total, oldest[..., None], -1)[..., 0]
            after[m:, m] = total
        value = after
        if k in counts and np.isfinite(value[steps]).any():
            found[k] = Schedule.from_steps(steps, _trace_back(value[steps], picks, steps, k))
    return found


def _trace_back(ends: Array, picks: dict[int, NDArray[np.int16]], steps: int, count: int) -> list[int]:
    """Computed steps of the cheapest path of `count` steps; the virtual step `steps` closes the last gap.

    Args:
        ends: cost by the gaps before the virtual step.
    """
    gaps = [int(gap) for gap in np.unravel_index(int(ends.argmin()), ends.shape)]
    newest, path, k = steps, [], count + 1
    while picks[k].size:
        gaps.append(int(picks[k][newest, *gaps]))
        newest, k = newest - gaps.pop(0), k - 1
        path.append(newest)
    return sorted([*path, *(newest - np.cumsum(gaps)).tolist()])
