r"""Schedules with actions that run a part of the network, exactly.

A step between two computed ones forecasts the trunk, or what is behind the first blocks, at the price of these blocks.
The nearer to the next computed step, the further a forecast reaches, so within a gap the last steps are those that run
a part: which point they forecast and how many there are is an edge of the shortest path, and what it costs is a number
of units, of which a budget allows so many beside its computed steps. Errors of both kinds add up in the gap,

.. math:: \Big\| \sum_{t < T - q} a_t\, d_t + \sum_{t \ge T - q} a_t\, e_t \Big\|^2,

with :math:`d_t` what a forecast of the trunk leaves and :math:`e_t` one of the point behind, from Gram statistics of
both points together.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from hyca_calib.search.exact import Path, Steps, linear_rows, shortest_paths, tabulate
from hyca_calib.search.replay import Array
from hyca_calib.search.stopwatch import Pulse, no_pulse
from hyca_calib.search.taps import fit_rows
from hyca_runtime.schedule import COMPUTE, EVERY, Action, Schedule


@dataclass(frozen=True)
class MixedGaps:
    """What gaps cost, of which the last steps may forecast another point than the others.

    Attributes:
        fit: Gram matrices ``(group, step, step)`` of each point that taps are fitted on.
        judge: those that errors are judged on, ``(group, point and step, point and step)``.
        times, step_weights, depth, ridge, max_gap: see `gap_table`.
        units: of each point but the first, what a step that forecasts it spends.
        most: units that a gap may spend.
    """

    fit: Sequence[Array]
    judge: Array
    times: Array
    step_weights: Array
    depth: int
    ridge: float
    max_gap: int
    units: Sequence[int]
    most: int

    def table(self, pulse: Pulse = no_pulse) -> tuple[Array, ...]:
        """Costs as `shortest_paths` takes them."""
        ends = (self.max_gap + 1, self.most + 1)
        return tabulate(self.by_units, len(self.times), ends, self.depth, pulse)

    def forecasts(self, newest: int, gaps: Sequence[int], length: int, spent: int) -> list[int]:
        """The point that each step of a gap forecasts, so that it is cheapest for what it spends."""
        costs = self._by_ending(np.array([newest]), *gaps)[0, length]
        ways = [(p, q) for p, units in enumerate(self.units) for q in range(length) if q * units == spent]
        point, count = min(ways, key=lambda way: float(costs[way]))
        return [0] * (length - 1 - count) + [1 + point] * count

    def history(self, computed: Sequence[int], i: int) -> list[int]:
        """Gaps before the i-th computed step, the newest first."""
        return [int(gap) for gap in np.diff(computed[max(0, i + 1 - max(2, self.depth)) : i + 1])[::-1]]

    def by_units(self, newest: Steps, *gaps: int) -> Array:
        """Costs of gaps behind steps with the same gaps before, ``(newest, length, units)``."""
        costs = self._by_ending(newest, *gaps)
        out = np.full((len(newest), self.max_gap + 1, self.most + 1), np.inf)
        for p, units in enumerate(self.units):
            for q in range(min(self.max_gap - 1, self.most // units) + 1):
                np.minimum(out[..., q * units], costs[:, :, p, q], out=out[..., q * units])
        return out

    def _by_ending(self, newest: Steps, *gaps: int) -> Array:
        """``(newest, length, point, last steps)``; infinity where there is no such gap."""
        products = self._products(newest, gaps)
        last, count = np.meshgrid(np.arange(self.max_gap), np.arange(self.max_gap), indexing="ij")
        turn, found = np.maximum(last - count, 0), []
        for p in range(1, products.shape[1]):
            own, other, both = products[:, 0, :, 0], products[:, p, :, p], products[:, 0, :, p]
            found.append(
                own[:, turn, turn]
                + other[:, last, last]
                + other[:, turn, turn]
                - 2 * other[:, last, turn]
                + 2 * (both[:, turn, last] - both[:, turn, turn])
            )
        costs = np.where(count <= last, np.stack(found, 1), np.inf).transpose(0, 2, 1, 3)  # by forecasts, one less
        out = np.concatenate([np.full_like(costs[:, :1], np.inf), costs], axis=1)
        inside = newest[:, None] + np.arange(self.max_gap + 1) <= len(self.times)
        return np.where(inside[..., None, None], out, np.inf)

    @cached_property
    def _lines(self) -> Array:
        return linear_rows(self.times, np.arange(1, self.max_gap), self.max_gap if self.depth > 1 else 0)

    def _products(self, newest: Steps, gaps: Sequence[int]) -> Array:
        """Products of the summed errors of the first j targets, ``(newest, point, j, point, j)``."""
        steps, ahead = len(self.times), np.arange(1, self.max_gap)
        history = newest[:, None] - np.cumsum([0, *gaps][: self.depth])
        targets = newest[:, None] + ahead
        inside = np.minimum(targets, steps - 1)
        weights = np.where(targets < steps, self.step_weights[inside], 0.0)
        taps, points = history.shape[1], len(self.fit)
        prior = np.zeros((len(newest), taps, len(ahead)))
        prior[:, :2] = self._lines[newest, gaps[0] if taps > 1 else 0, :taps]
        width = taps + len(ahead)
        summed = np.zeros((len(self.judge), len(newest), points * width, points, len(ahead) + 1))
        for p, gram in enumerate(self.fit):
            rows = fit_rows(gram, history, inside, self.ridge, prior) * weights[:, None]
            begin = p * width
            summed[:, :, begin : begin + taps, p, 1:] = rows.cumsum(-1)
            minus = -weights[:, :, None] * np.tri(len(ahead)).T  # of target i in the sums of more than i
            summed[:, :, begin + taps : begin + width, p, 1:] = minus
        at = np.concatenate([p * steps + np.concatenate([history, inside], 1) for p in range(points)], 1)
        flat = summed.reshape(*summed.shape[:3], -1)
        product = flat.swapaxes(-1, -2) @ self.judge[:, at[:, :, None], at[:, None, :]] @ flat
        return np.asarray(product.sum(0).reshape(len(newest), *summed.shape[3:] * 2))


@dataclass(frozen=True)
class FreeGaps(MixedGaps):
    """The same where every step of a gap may forecast any of the points: all ways are looked at, so gaps are short."""

    def by_units(self, newest: Steps, *gaps: int) -> Array:
        out = np.full((len(newest), self.max_gap + 1, self.most + 1), np.inf)
        for length in range(1, self.max_gap + 1):
            there = np.flatnonzero(newest + length <= len(self.times))
            if not len(there):
                break
            ways, spent = self._ways(length - 1)
            costs = self._costs(newest[there], gaps, ways)
            for units in np.unique(spent[spent <= self.most]):
                out[there, length, units] = costs[:, spent == units].min(1)
        return out

    def forecasts(self, newest: int, gaps: Sequence[int], length: int, spent: int) -> list[int]:
        ways, units = self._ways(length - 1)
        ways = ways[units == spent]
        found: list[int] = ways[self._costs(np.array([newest]), gaps, ways)[0].argmin()].tolist()
        return found

    def _ways(self, steps: int) -> tuple[Steps, Steps]:
        """The points that so many steps may forecast, ``(way, step)``, and what each way spends."""
        prices = np.array([0, *self.units])
        ways = np.indices([len(prices)] * steps).reshape(steps, len(prices) ** steps).T
        return ways, prices[ways].sum(1)

    def _costs(self, newest: Steps, gaps: Sequence[int], ways: Steps) -> Array:
        """``(newest, way)``."""
        alone = np.diff(np.diff(self._products(newest, gaps), axis=2), axis=4)
        steps = np.arange(ways.shape[1])
        products = alone[:, ways[:, :, None], steps[:, None], ways[:, None, :], steps]
        return np.asarray(products.sum((-2, -1)))


def best_mixed(
    gaps: MixedGaps, names: Sequence[str], units: Mapping[int, int], start: int, pulse: Pulse = no_pulse
) -> dict[int, tuple[float, Schedule]]:
    """The cheapest schedule for each number of computed steps, and its cost.

    Args:
        names: of the points.
        units: by the number of computed steps, what may be spent beside them.
        start: leading steps that are computed.
    """
    paths = shortest_paths(gaps.table(pulse), units, start, pulse)
    return {count: (path.cost, _schedule(gaps, names, path)) for count, path in paths.items()}


def filled(gaps: MixedGaps, names: Sequence[str], computed: Sequence[int], units: int) -> Schedule:
    """The cheapest schedule of these computed steps that spends at most so many units beside them."""
    ends = [*computed[1:], len(gaps.times)]
    ways: dict[int, tuple[float, tuple[int, ...]]] = {0: (0.0, ())}  # by units so far: the cost, and those of each gap
    for i, (step, end) in enumerate(zip(computed, ends, strict=True)):
        costs = gaps.by_units(np.array([step]), *gaps.history(computed, i))[0, end - step]
        found: dict[int, tuple[float, tuple[int, ...]]] = {}
        for (done, (cost, earlier)), (spent, more) in itertools.product(ways.items(), enumerate(costs.tolist())):
            if done + spent <= units and cost + more < found.get(done + spent, (np.inf, ()))[0]:
                found[done + spent] = cost + more, (*earlier, spent)
        ways = found
    cost, best = min(ways.values(), key=lambda way: way[0])
    return _schedule(gaps, names, Path(cost, tuple(computed), best))


def _schedule(gaps: MixedGaps, names: Sequence[str], path: Path) -> Schedule:
    steps = len(gaps.times)
    done = [0] * steps  # 0 computes, 1 + p forecasts the p-th point
    for i, (step, spent) in enumerate(zip(path.computed, path.spent, strict=True)):
        length = (*path.computed, steps)[i + 1] - step
        points = gaps.forecasts(step, gaps.history(path.computed, i), length, spent) if spent else [0] * (length - 1)
        done[step + 1 : step + length] = [1 + point for point in points]
    used = sorted({action for action in done if action})
    palette = (COMPUTE, *(Action(forecast=(names[action - 1],)) for action in used))
    place = {0: 0, **{action: 1 + i for i, action in enumerate(used)}}
    return Schedule(palette=palette, tables={EVERY: tuple(place[action] for action in done)})
