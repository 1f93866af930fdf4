"""One schedule on which groupings compete, judged by algebra on Gram matrices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from hyca_calib.search.replay import gap_cost, gaps, residual_gram, rows_of
from hyca_calib.search.solver_table import POOL
from hyca_calib.search.taps import fit_rows
from hyca_runtime.schedule import Schedule
from hyca_runtime.solvers import Newton

Array = NDArray[np.float64]
Labels = NDArray[np.int64]
"""The group of each channel."""
Gap = tuple[tuple[int, ...], tuple[int, ...]]
Rows = list[Array]
"""For each gap the weights ``(row, history, target)``; one row serves all, or each channel has its own."""

DEEPEST = max(solver.depth for solver in POOL)
TINY = 1e-30


@dataclass(frozen=True)
class ReplaySetup:
    """The gaps of a schedule.

    Attributes:
        gaps: history, newest first and as deep as any solver wants, and predicted steps.
        times: position of each step on the solvers' axis.
        step_weights: weight of an error at each step.
        depth: history of fitted taps.
    """

    gaps: tuple[Gap, ...]
    times: Array
    step_weights: Array
    depth: int = 3

    @classmethod
    def of(cls, schedule: Schedule, times: Array, step_weights: Array, depth: int = 3) -> ReplaySetup:
        return cls(tuple(gaps(schedule, DEEPEST)), times, step_weights, depth)

    def within(self, window: slice) -> ReplaySetup:
        """Only the gaps whose first predicted step lies in the window."""
        return replace(self, gaps=tuple(gap for gap in self.gaps if window.start <= gap[1][0] < window.stop))

    @cached_property
    def linear(self) -> Rows:
        """Linear extrapolation, what the ridge draws towards unless told otherwise."""
        return [rows_of(Newton(1), self.times, history[: self.depth], targets)[None] for history, targets in self.gaps]

    def fit(self, gram: Array, ridge: float, prior: Rows | None = None) -> Rows:
        """Taps of each of the Gram matrices ``(row, step, step)``, drawn towards `prior`."""
        return [
            fit_rows(gram, history[: self.depth], targets, ridge, towards)
            for (history, targets), towards in zip(self.gaps, prior or self.linear, strict=True)
        ]

    def gap_costs(self, gram: Array, rows: Rows) -> Array:
        """Cost of each gap, ``(gap, ..., row)``, on Gram matrices ``(..., row, step, step)``."""
        return np.stack(
            [
                gap_cost(
                    residual_gram(gram, taps, history[: taps.shape[-2]], targets), self.step_weights[list(targets)]
                )
                for (history, targets), taps in zip(self.gaps, rows, strict=True)
            ]
        )

    def cost(self, gram: Array, rows: Rows) -> Array:
        """Cost of the whole schedule, ``(..., row)``."""
        return np.asarray(self.gap_costs(gram, rows).sum(0))

    def error(self, gram: Array, rows: Rows) -> Array:
        """Squared forecast error summed over all predicted steps, unweighted, ``(..., row)``."""
        found = np.zeros(gram.shape[:-2])
        for (history, targets), taps in zip(self.gaps, rows, strict=True):
            left = residual_gram(gram, taps, history[: taps.shape[-2]], targets)
            found += np.trace(left, axis1=-2, axis2=-1)
        return found

    def energy(self, gram: Array) -> Array:
        """Squared norm of the features at all predicted steps, ``(...)``."""
        steps = [t for _, targets in self.gaps for t in targets]
        return np.asarray(gram[..., steps, steps].sum(-1))

    @cached_property
    def closed_rows(self) -> list[Rows]:
        """The rows of every solver of the pool."""
        return [[rows_of(s, self.times, history, targets)[None] for history, targets in self.gaps] for s in POOL]

    def closed_costs(self, gram: Array) -> Array:
        """Cost ``(solver, gap, ..., row)`` of every closed form of the pool."""
        return np.stack([self.gap_costs(gram, rows) for rows in self.closed_rows])

    def closed_errors(self, gram: Array) -> Array:
        """Squared error ``(solver, ..., row)`` of every closed form, see `error`."""
        return np.stack([self.error(gram, rows) for rows in self.closed_rows])


def by_label(rows: Rows, labels: NDArray[np.int64]) -> Rows:
    """Each channel gets the row of its group."""
    return [taps[labels] for taps in rows]


def horizon_taps(setup: ReplaySetup, gram: Array, ridge: float) -> Array:
    r"""Descriptor ``(channel, feature)``: the fitted taps at the horizons of the schedule, in the metric of its cost.

    What the cost sees of a gap is one weighted sum of its taps, :math:`v = \sum_t a_t w_t`. A channel that uses
    another's taps pays :math:`(v - v')^T G_{hh} (v - v')`; with the mean Gram :math:`LL^T` of channels scaled to
    equal energy, :math:`L^T v` is the descriptor whose Euclidean distance is that price.
    """
    scale = np.trace(gram, axis1=-2, axis2=-1)[:, None, None]
    mean = (gram / np.maximum(scale, TINY)).mean(0)
    columns = [
        np.einsum("cht,t->ch", taps, setup.step_weights[list(targets)]) @ _root(mean, history[: setup.depth])
        for (history, targets), taps in zip(setup.gaps, setup.fit(gram, ridge), strict=True)
    ]
    table = np.concatenate(columns, axis=1)
    return np.asarray((table - table.mean(0)) / max(float(table.std()), TINY))


def _root(gram: Array, history: Sequence[int]) -> Array:
    """Lower Cholesky factor of the history's block, kept positive definite."""
    past = gram[np.ix_(history, history)]
    return np.linalg.cholesky(past + (1e-12 * np.trace(past) + TINY) * np.eye(len(past)))
