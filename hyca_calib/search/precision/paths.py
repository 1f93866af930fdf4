r"""The cheapest schedule of computed steps in two precisions and of forecasts between them, exactly.

A gap begins with a computed step a. With the errors :math:`e_h` of computed steps in low precision, what is left of the
gap in the latent is

.. math:: \Big\| a_a\, e_a + \sum_t a_t \Big( \sum_k w_{tk} (F_{h_k} + e_{h_k}) - F_t \Big) \Big\|^2,

the step's own error and what forecasts make of it added up before they are squared. All of it is a quadratic form in
Gram matrices over the steps in both precisions: of the same step they share all products but the noise. So a schedule
is a shortest path over states (newest step, gaps and precisions back through the history, how many steps had the
network's own precision), for each number of computed steps; nothing is rounded.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hyca_calib.search.exact import Steps, linear_rows
from hyca_calib.search.replay import Array
from hyca_calib.search.stopwatch import Pulse, no_pulse
from hyca_calib.search.taps import fit_rows

OWN, LOW = range(2)
"""Precisions, as axes count them."""

Computed = tuple[tuple[int, int], ...]
"""Computed steps, each with its precision."""


@dataclass(frozen=True)
class PreciseGaps:
    """What gaps cost behind histories whose steps have one precision or the other.

    Attributes:
        fit, judge: ``(group, step, step)``, see `gap_table`.
        fit_noise, judge_noise: squared errors of a step in low precision, ``(group, step)``.
        times, step_weights, depth, ridge, max_gap: see `gap_table`.
    """

    fit: Array
    judge: Array
    fit_noise: Array
    judge_noise: Array
    times: Array
    step_weights: Array
    depth: int
    ridge: float
    max_gap: int

    def tables(self, pulse: Pulse = no_pulse) -> list[Array]:
        """By the length of the history less one ``(newest, precision, gap, precision, .., length)``."""
        steps, ends, found = len(self.times), self.max_gap + 1, []
        longest = max(2, self.depth)
        fit, judge = both_precisions(self.fit, self.fit_noise), both_precisions(self.judge, self.judge_noise)
        lines = linear_rows(self.times, np.arange(1, self.max_gap), self.max_gap if self.depth > 1 else 0)
        for length in range(1, longest + 1):
            table = np.full((steps, 2, *(ends, 2) * (length - 1), ends), np.inf)
            for gaps in itertools.product(range(1, ends), repeat=length - 1):
                first = sum(gaps)
                newest = np.arange(first, steps if length == longest else min(first + 1, steps))
                pulse()
                for precisions in itertools.product(range(2), repeat=length) if newest.size else ():
                    rest = [index for pair in zip(gaps, precisions[1:], strict=True) for index in pair]
                    costs = self._costs(fit, judge, lines, newest, gaps, precisions)
                    at: tuple[Any, ...] = (newest, precisions[0], *rest)
                    table[at] = costs
            found.append(table)
        return found

    def _costs(
        self, fit: Array, judge: Array, lines: Array, newest: Steps, gaps: Sequence[int], precisions: Sequence[int]
    ) -> Array:
        """``(newest, length)``; infinity where there is no such gap."""
        steps, ahead = len(self.times), np.arange(self.max_gap)
        back = np.cumsum([0, *gaps][: self.depth])
        history = newest[:, None] - back + steps * np.asarray(precisions[: self.depth])
        targets = newest[:, None] + ahead
        inside = np.minimum(targets, steps - 1)
        weights = np.where(targets < steps, self.step_weights[inside], 0.0)
        prior = np.zeros((len(newest), len(back), len(ahead) - 1))
        prior[:, :2] = lines[newest, gaps[0] if len(back) > 1 else 0, : len(back)]
        rows = np.zeros((len(fit), *prior.shape[:2], len(ahead)))
        rows[..., 0, 0] = 1.0  # the computed step itself stands for its own value
        rows[..., 1:] = fit_rows(fit, history, inside[:, 1:], self.ridge, prior)
        summed = (weights[:, None] * rows).cumsum(-1)
        past, cross, future = (
            judge[:, a[:, :, None], b[:, None, :]] for a, b in ((history, history), (history, inside), (inside, inside))
        )
        ends = (weights[:, :, None] * weights[:, None, :] * future.sum(0)).cumsum(1).cumsum(2)
        both = np.einsum("gnkm,gnkm->nm", summed, past @ summed - 2 * (weights[:, None] * cross).cumsum(-1))
        costs = np.maximum(both + ends[:, ahead, ahead], 0.0)
        out = np.full((len(newest), self.max_gap + 1), np.inf)
        out[:, 1:] = np.where(targets < steps, costs, np.inf)
        return out


def both_precisions(gram: Array, noise: Array) -> Array:
    """Gram matrices over all steps in one precision, then all in the other, ``(group, 2 step, 2 step)``."""
    steps = gram.shape[1]
    found, low = np.tile(gram, (1, 2, 2)), np.arange(steps, 2 * steps)
    found[:, low, low] += noise
    return found


def cheapest(
    tables: Sequence[Array], most_own: Mapping[int, int], start: int, pulse: Pulse = no_pulse
) -> dict[int, tuple[float, Computed]]:
    """The cheapest path for each number of computed steps, and its cost.

    Args:
        tables: see `PreciseGaps.tables`.
        most_own: by the number of computed steps, how many of them may have the network's own precision.
        start: leading steps that are computed.
    """
    (steps, _, ends), longest, most = tables[0].shape, len(tables), max(most_own.values())
    value: Array = np.full((steps + 1, 2, most + 1), np.inf)  # (newest, precision, [gap, precision] .., own)
    value[0, LOW, 0] = 0.0
    if most:
        value[0, OWN, 1] = 0.0
    picks: dict[int, NDArray[np.int16]] = {}  # the gap and the precision that a state forgets
    found: dict[int, tuple[float, Computed]] = {}
    for k in range(1, max(most_own) + 1):
        pulse()
        costs, whole = tables[min(k, longest) - 1], k >= longest
        kept = value.shape[2:-1][: -2 if whole else None]
        after = np.full((steps + 1, 2, ends, 2, *kept, most + 1), np.inf)
        picks[k] = np.zeros((steps, ends, 2, *kept, most + 1), dtype=np.int16)
        for m in range(1, ends if k >= start else 2):
            total = value[: steps + 1 - m] + costs[: steps + 1 - m, ..., m, None]
            if whole:
                total = total.reshape(*total.shape[:-3], -1, most + 1)
                oldest = total.argmin(-2)
                picks[k][: steps + 1 - m, m] = oldest
                total = np.take_along_axis(total, oldest[..., None, :], -2)[..., 0, :]
            after[m:, LOW, m] = total
            after[m:, OWN, m, ..., 1:] = total[..., :most]
        value = after
        if k in most_own and np.isfinite(value[steps, LOW, ..., : most_own[k] + 1]).any():
            found[k] = _trace_back(value[steps, LOW, ..., : most_own[k] + 1], picks, steps, k, longest)
    return found


def _trace_back(
    ends: Array, picks: Mapping[int, NDArray[np.int16]], steps: int, count: int, longest: int
) -> tuple[float, Computed]:
    """The cheapest path of `count` computed steps; the virtual step `steps` closes the last gap, at no price.

    Args:
        ends: cost by the gaps and precisions before the virtual step, and by the steps of own precision.
    """
    *state, own = (int(at) for at in np.unravel_index(int(ends.argmin()), ends.shape))
    newest, computed = steps, list[tuple[int, int]]()
    for k in range(count, 0, -1):
        gap, precision, *rest = state
        newest -= gap
        if k >= longest:
            rest += divmod(int(picks[k][newest, gap, precision, *rest, own]), 2)
        computed.append((newest, precision))
        state, own = rest, own - (precision == OWN)
    return float(ends.min()), tuple(reversed(computed))
