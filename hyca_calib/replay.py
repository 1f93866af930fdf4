r"""Judging forecasts without sampling: everything here is algebra on Gram matrices.

A forecast of step t from the history h leaves the residual :math:`d_t = \sum_k w_k F_{h_k} - F_t`.
Residuals of one gap add up in the latent with the sampler's step sizes, so a gap costs

.. math:: \Big\| \sum_{t} a_t\, d_t \Big\|^2 = \sum_{t,u} a_t a_u R[t,u], \qquad
          R[t,u] = w_t^T G_{hh} w_u - w_t^T G_{hu} - G_{th} w_u + G_{tu},

with :math:`a_t` the step size times the gain of the network's tail. Channels enter with their own
squared gain, summed within a group beforehand (`grouped`).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hyca_runtime.schedule import Schedule
from hyca_runtime.solvers import Instant, Solver

__all__ = ["forecast_error", "gap_cost", "grouped", "residual_gram", "rows_of", "schedule_cost"]

Array = NDArray[np.float64]


def grouped(gram: Array, weight: Array, groups: Sequence[NDArray[np.int64]]) -> Array:
    """Gram matrices ``(group, step, step)``: channels summed with their squared gains ``weight``."""
    return np.stack([np.tensordot(weight[g], gram[g], axes=1) for g in groups])


def rows_of(solver: Solver, times: Array, history: Sequence[int], targets: Sequence[int]) -> Array:
    """Weights ``(len(history), len(targets))`` of a solver with one row per group, zero where unused."""
    past = [Instant(s, times[s]) for s in history]
    out = np.zeros((len(history), len(targets)))
    for j, t in enumerate(targets):
        row = solver.rows(past, Instant(t, times[t]))[:, 0]
        out[: len(row), j] = row
    return out


def residual_gram(gram: Array, weights: Array, history: Sequence[int], targets: Sequence[int]) -> Array:
    """R of the formula above.

    Args:
        gram: ``(..., step, step)``.
        weights: ``(..., history, target)``.

    Returns:
        ``(..., target, target)``.
    """
    h, t = np.asarray(history), np.asarray(targets)
    past, cross, future = gram[..., h[:, None], h], gram[..., h[:, None], t], gram[..., t[:, None], t]
    transposed = np.swapaxes(weights, -1, -2)
    half = transposed @ cross
    return np.asarray(transposed @ past @ weights - half - np.swapaxes(half, -1, -2) + future)


def forecast_error(gram: Array, weights: Array, history: Sequence[int], target: int) -> Array:
    """Summed squared error ``(...)`` of one forecast with weights ``(..., history)``."""
    return np.asarray(residual_gram(gram, weights[..., None], history, [target])[..., 0, 0])


def gap_cost(residuals: Array, step_weights: Array) -> Array:
    """Cost ``(...)`` of a gap from its residual Gram ``(..., target, target)``."""
    return np.asarray(np.einsum("t,...tu,u->...", step_weights, residuals, step_weights))


def schedule_cost(
    gram: Array, schedule: Schedule, times: Array, step_weights: Array, solvers: Sequence[Solver]
) -> Array:
    """Cost ``(group,)`` of a whole schedule, gap by gap, through the runtime's own solvers.

    Args:
        gram: ``(group, step, step)``.
        solvers: one for each group, with one row per group.
    """
    total = np.zeros(len(gram))
    for history, targets in gaps(schedule, max(solver.depth for solver in solvers)):
        for g, solver in enumerate(solvers):
            weights = rows_of(solver, times, history, targets)
            total[g] += gap_cost(residual_gram(gram[g], weights, history, targets), step_weights[list(targets)])
    return total


def gaps(schedule: Schedule, depth: int) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """History and predicted steps of every run of predicted steps."""
    computed = (*schedule.computed_steps, schedule.num_steps)
    found = []
    for here, following in itertools.pairwise(computed):
        if following > here + 1:
            found.append((schedule.history(here + 1, depth), tuple(range(here + 1, following))))
    return found
