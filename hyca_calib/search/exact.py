r"""The cheapest schedule, exactly.

The objective is a sum over gaps, and a gap costs what its history (the last `depth` computed steps),
its length and the actions on its steps say. So the best schedule with K computed steps is a shortest path over states
(newest step a, gaps g1, g2, .. back to the steps before it, what was spent on other actions), solved by dynamic
programming: no annealing, no local optimum. Gaps are limited to `max_gap`, which bounds the table at
``steps * max_gap^depth`` entries whatever the number of channels; runs of many hundreds of steps are searched with
shorter histories and gaps, see `affordable`.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
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
    lines = linear_rows(times, ahead, max_gap if depth > 1 else 0)

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

    return GapTable(tabulate(costs, steps, (max_gap + 1,), depth, pulse))


def tabulate(
    costs: Callable[..., Array], steps: int, ends: tuple[int, ...], depth: int, pulse: Pulse
) -> tuple[Array, ...]:
    """`costs` of all histories, of one computed step and more, see `GapTable`.

    Args:
        costs: of histories with the same gaps, by their newest steps, ``(newest, *ends)``.
        ends: one more than the longest gap, and what else a cost is for.
        depth: taps used.
    """
    histories, max_gap = [], ends[0] - 1
    longest = max(2, depth)  # a state has at least one gap
    for length in range(1, longest + 1):
        table = np.full((steps, *[max_gap + 1] * (length - 1), *ends), np.inf)
        for gaps in itertools.product(range(1, max_gap + 1), repeat=length - 1):
            first = sum(gaps)
            newest = np.arange(first, steps if length == longest else min(first + 1, steps))
            if newest.size:
                pulse()
                at: tuple[Any, ...] = (newest, *gaps)
                table[at] = costs(newest, *gaps)
        histories.append(table)
    return tuple(histories)


def linear_rows(times: Array, ahead: Steps, max_gap: int) -> Array:
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
    histories = [costs[..., None] for costs in table.histories]
    found = shortest_paths(histories, dict.fromkeys(counts, 0), start, pulse)
    return {count: Schedule.from_steps(table.num_steps, path.computed) for count, path in found.items()}


@dataclass(frozen=True)
class Path:
    """A way through all steps.

    Attributes:
        spent: units that the gap behind each computed step takes.
    """

    cost: float
    computed: tuple[int, ...]
    spent: tuple[int, ...]


def shortest_paths(
    histories: Sequence[Array], units: Mapping[int, int], start: int, pulse: Pulse = no_pulse
) -> dict[int, Path]:
    """The cheapest path for each number of computed steps.

    Args:
        histories: as those of `GapTable`, with a last axis for the units that are spent in the gap.
        units: by the number of computed steps, how many may be spent in all.
        start: this many first steps are computed whatever the costs are.
    """
    (steps, *_, ends, each), longest, most = histories[0].shape, len(histories), max(units.values())
    value: Array = np.full((steps + 1, most + 1), np.inf)  # (a, g1, .., spent): the cheapest way to k computed steps
    value[0, 0] = 0.0
    picks: dict[int, NDArray[np.int32]] = {}  # what a state forgets: the oldest gap before, and the units of its own
    found = {}
    for k in range(1, max(units) + 1):
        pulse()
        costs = histories[min(k, longest) - 1]
        after = np.full((steps + 1, *[ends] * min(k, longest - 1), most + 1), np.inf)
        picks[k + 1] = np.zeros(after.shape, dtype=np.int32)
        for m, spent in itertools.product(range(1, ends if k >= start else 2), range(min(each, most + 1))):
            total = value[: steps + 1 - m, ..., : most + 1 - spent] + costs[: steps + 1 - m, ..., m, spent, None]
            pick = np.full(total.shape, spent, dtype=np.int32)
            if k >= longest:
                oldest = total.argmin(-2)
                total = np.take_along_axis(total, oldest[..., None, :], -2)[..., 0, :]
                pick = oldest * each + spent
            best, known = after[m:, m, ..., spent:], picks[k + 1][m:, m, ..., spent:]
            better = total < best
            np.copyto(best, total, where=better)
            np.copyto(known, pick, where=better, casting="same_kind")
        value = after
        if k in units and np.isfinite(value[steps, ..., : units[k] + 1]).any():
            found[k] = _trace_back(value[steps, ..., : units[k] + 1], picks, steps, k, longest, each)
    return found


def _trace_back(
    ends: Array, picks: dict[int, NDArray[np.int32]], steps: int, count: int, longest: int, each: int
) -> Path:
    """The cheapest path of `count` computed steps; the virtual step `steps` closes the last gap.

    Args:
        ends: cost by the gaps before the virtual step, and by what was spent.
    """
    *gaps, left = (int(at) for at in np.unravel_index(int(ends.argmin()), ends.shape))
    newest, computed, spent = steps, list[int](), list[int]()
    for k in range(count, 0, -1):
        oldest, of_gap = divmod(int(picks[k + 1][newest, *gaps, left]), each)
        newest, left = newest - gaps.pop(0), left - of_gap
        if k >= longest:
            gaps.append(oldest)
        computed.append(newest)
        spent.append(of_gap)
    return Path(float(ends.min()), tuple(reversed(computed)), tuple(reversed(spent)))
