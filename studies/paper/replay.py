"""Gram matrices of the stored trajectories, and schedules that are replayed on them."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray

from hyca_calib.clusters.base import Labels
from hyca_calib.pipelines.workload import Split
from hyca_calib.search.replay import Array, Multistep, gap_cost, gaps, grouped, residual_gram, rows_of
from hyca_calib.search.settings import Settings
from hyca_calib.search.solver_table import POOL
from hyca_calib.search.taps import TINY, fit_rows
from hyca_calib.trace.store import Trace
from hyca_runtime.schedule import Schedule
from hyca_runtime.solvers import ClosedFormSolver, Newton

FEW_TOKENS = 4


@dataclass(frozen=True)
class Recorded:
    """What the stored trajectories say; every Gram is one prompt's or the mean over prompts.

    Attributes:
        prompts: single prompts of the fit split, ``(prompt, channel, step, step)``.
        sparse: the same prompts, of each only a few tokens.
        sets: disjoint sets of fit prompts, ``(set, channel, step, step)``.
        fit: all fit prompts read, ``(channel, step, step)``.
        judged: prompts of the select split, ``(prompt, channel, step, step)``.
        fit_tokens, judged_tokens: channels summed with the squared gain of the network's tail,
            ``(prompt, token, step, step)``.
    """

    prompts: Array
    sparse: Array
    sets: Array
    fit: Array
    judged: Array
    fit_tokens: Array
    judged_tokens: Array


def channel_gram(values: Array) -> Array:
    """``(channel, step, step)`` of one sample ``(branch, step, token, channel)``."""
    rows = values.transpose(3, 1, 0, 2).reshape(values.shape[3], values.shape[1], -1)
    return np.asarray(rows @ rows.transpose(0, 2, 1))


def token_gram(values: Array, gain: Array) -> Array:
    """``(token, step, step)`` of one sample ``(branch, step, token, channel)``, channels weighted by ``gain``."""
    return channel_gram((values * np.sqrt(gain)).swapaxes(2, 3))


def read(trace: Trace, gain: Array, seed: int, *, prompts: int, sets: int, most: int | None = None) -> Recorded:
    """Read the fit and select splits once, sample by sample, of each at most `most`.

    Keeps so many single prompts, and deals the fit prompts to so many disjoint sets.
    """
    few = np.random.default_rng(seed).permutation(trace.values("fit", 1).shape[3])[:FEW_TOKENS]
    fit, judged = (samples(trace, split, most) for split in ("fit", "select"))
    return reduce(fit, judged, gain, few, prompts=prompts, sets=sets)


def samples(trace: Trace, split: Split, most: int | None = None) -> Iterator[Array]:
    """The first `most` stored samples ``(branch, step, token, channel)`` of a split, one at a time."""
    return (trace.sample_values(index).astype(np.float64) for index in trace.samples(split)[:most])


def reduce(
    fit: Iterable[Array], judged: Iterable[Array], gain: Array, few: NDArray[np.int64], *, prompts: int, sets: int
) -> Recorded:
    """Samples ``(branch, step, token, channel)`` of both splits to Gram matrices; `sparse` are of the `few` tokens."""
    fitted = [(channel_gram(sample), channel_gram(sample[:, :, few]), token_gram(sample, gain)) for sample in fit]
    grams, sparse, fit_tokens = (np.stack(kind) for kind in zip(*fitted, strict=True))
    held = [(channel_gram(sample), token_gram(sample, gain)) for sample in judged]
    dealt = [grams[i::sets] for i in range(min(sets, len(grams)))]
    return Recorded(
        prompts=grams[:prompts],
        sparse=sparse[:prompts],
        sets=np.stack([sum(of) / len(of) for of in dealt]),
        fit=np.asarray(sum(sum(of) for of in dealt)) / len(grams),
        judged=np.stack([channels for channels, _ in held]),
        fit_tokens=fit_tokens,
        judged_tokens=np.stack([tokens for _, tokens in held]),
    )


Rows = list[Array]
"""For each gap the weights ``(row, history, target)``; one row serves all, or each channel has its own."""

RIDGES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2)


@dataclass(frozen=True)
class ReplaySetup:
    """A schedule and what its forecasts cost.

    Attributes:
        times: position of each step on the solvers' axis.
        step_weights: weight of an error at each step.
        depth: history of fitted taps.
        deepest: history of any solver.
        window: only gaps whose first predicted step lies in it count.
    """

    schedule: Schedule
    times: Array
    step_weights: Array
    depth: int = Settings().depth
    deepest: int = max(solver.depth for solver in POOL)
    window: slice | None = None

    @cached_property
    def gaps(self) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        """History, newest first, and predicted steps of each gap."""
        inside = range(self.schedule.num_steps)[self.window or slice(None)]
        return [gap for gap in gaps(self.schedule, self.deepest) if gap[1][0] in inside]

    def within(self, window: slice | None) -> Self:
        """Only a part of the run, or all of it."""
        return replace(self, window=window)

    def rows(self, solver: ClosedFormSolver, multistep: Multistep = "anchored") -> Rows:
        """The rows ``(1, history, target)`` of a formula in each gap."""
        return [rows_of(solver, self.times, *gap, multistep)[None] for gap in self.gaps]

    @cached_property
    def linear(self) -> Rows:
        """Linear extrapolation, what the ridge draws towards unless told otherwise."""
        return self.rows(Newton(1))

    def fit(self, gram: Array, ridge: float, prior: Rows | None = None) -> Rows:
        """Taps of each of the Gram matrices ``(row, step, step)``, drawn towards `prior`."""
        return [
            fit_rows(gram, history[: self.depth], targets, ridge, towards[:, : self.depth])
            for (history, targets), towards in zip(self.gaps, prior or self.linear, strict=True)
        ]

    def fit_groups(self, gram: Array, weight: Array, labels: Labels, ridge: float) -> Rows:
        """Taps fitted to each group of rows, summed with their weights; its own for each row."""
        shared = self.fit(grouped(gram, weight, members(labels)), ridge)
        return by_label(shared, np.unique(labels, return_inverse=True)[1])

    def gap_costs(self, gram: Array, rows: Rows) -> Array:
        """Cost of each gap, ``(gap, ..., row)``, on Gram matrices ``(..., row, step, step)``."""
        return np.stack([gap_cost(left, self.step_weights[list(t)]) for t, left in self._residuals(gram, rows)])

    def cost(self, gram: Array, rows: Rows) -> Array:
        """Cost of the whole schedule, ``(..., row)``."""
        return np.asarray(self.gap_costs(gram, rows).sum(0))

    def error(self, gram: Array, rows: Rows) -> Array:
        """Squared forecast error summed over all predicted steps, unweighted, ``(..., row)``."""
        left = [np.trace(residual, axis1=-2, axis2=-1) for _, residual in self._residuals(gram, rows)]
        return np.asarray(np.sum(left, axis=0))

    def _residuals(self, gram: Array, rows: Rows) -> Iterator[tuple[tuple[int, ...], Array]]:
        """Predicted steps of each gap, and the Gram matrices of what the forecasts leave."""
        for (history, targets), taps in zip(self.gaps, rows, strict=True):
            yield targets, residual_gram(gram, taps, history[: taps.shape[-2]], targets)

    def energy(self, gram: Array) -> Array:
        """Squared norm of the features at all predicted steps, ``(...)``."""
        steps = [t for _, targets in self.gaps for t in targets]
        return np.asarray(gram[..., steps, steps].sum(-1))

    @cached_property
    def pool_rows(self) -> list[Rows]:
        """The rows of every solver of the pool."""
        return [self.rows(solver) for solver in POOL]

    def closed_costs(self, gram: Array) -> Array:
        """Cost ``(solver, gap, ..., row)`` of every closed form of the pool."""
        return np.stack([self.gap_costs(gram, rows) for rows in self.pool_rows])

    def closed_errors(self, gram: Array) -> Array:
        """Squared error ``(solver, ..., row)`` of every closed form, see `error`."""
        return np.stack([self.error(gram, rows) for rows in self.pool_rows])

    def best_ridge(self, sets: Array, gain: Array) -> float:
        """The ridge whose per-channel taps, fitted on all sets ``(set, channel, step, step)`` but one, err least on it.

        The search's default if there is only one.
        """
        if len(sets) < 2:
            return Settings().ridge
        folds = [(one, np.delete(sets, i, axis=0).mean(0)) for i, one in enumerate(sets)]

        def cost(ridge: float) -> float:
            return sum(float(self.cost(one, self.fit(rest, ridge)) @ gain) for one, rest in folds)

        return min(RIDGES, key=cost)


def members(labels: Labels) -> list[NDArray[np.int64]]:
    """Numbers of the rows of each label that occurs, ascending."""
    return [np.flatnonzero(labels == label) for label in np.unique(labels)]


def by_label(rows: Rows, labels: Labels) -> Rows:
    """Each channel gets the row of its group."""
    return [taps[labels] for taps in rows]


def horizon_taps(setup: ReplaySetup, gram: Array, ridge: float) -> Array:
    r"""Descriptor ``(channel, feature)``: the fitted taps at the horizons of the schedule, in the metric of its cost.

    What the cost sees of a gap is one weighted sum of its taps, :math:`v = \sum_t a_t w_t`. A channel that uses
    another's taps pays :math:`(v - v')^T G_{hh} (v - v')`; with the mean Gram :math:`LL^T` of channels scaled to
    equal energy, :math:`L^T v` is the descriptor whose Euclidean distance is that price.
    """
    scale = np.trace(gram, axis1=-2, axis2=-1)[:, None, None]
    mean, columns = (gram / np.maximum(scale, TINY)).mean(0), []
    for (history, targets), taps in zip(setup.gaps, setup.fit(gram, ridge), strict=True):
        past = mean[np.ix_(history[: setup.depth], history[: setup.depth])]
        root = np.linalg.cholesky(past + (1e-12 * np.trace(past) + TINY) * np.eye(len(past)))
        columns.append(np.einsum("cht,t->ch", taps, setup.step_weights[list(targets)]) @ root)
    table = np.concatenate(columns, axis=1)
    return np.asarray((table - table.mean(0)) / max(float(table.std()), TINY))
