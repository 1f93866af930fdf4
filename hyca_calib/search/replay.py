r"""Judging forecasts without sampling: everything here is algebra on Gram matrices.

A forecast of step t from the history h leaves the residual :math:`d_t = \sum_k w_k F_{h_k} - F_t`.
Residuals of one gap add up in the latent with the sampler's step sizes, so a gap costs

.. math:: \Big\| \sum_{t} a_t\, d_t \Big\|^2 = \sum_{t,u} a_t a_u R[t,u], \qquad
          R[t,u] = w_t^T G_{hh} w_u - w_t^T G_{hu} - G_{th} w_u + G_{tu},

with :math:`a_t` the step size times the gain of the network's tail. Channels enter with their own
squared gain, summed within a group beforehand (`grouped`).
"""

import itertools
from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hyca_runtime.schedule import Schedule
from hyca_runtime.solvers import Instant, Solver
from hyca_runtime.solvers.base import ClosedFormSolver

Array = NDArray[np.float64]


def grouped(gram: Array, weight: Array, groups: Sequence[NDArray[np.int64]]) -> Array:
    """Gram matrices ``(group, step, step)``: channels summed with their squared gains ``weight``."""
    return np.stack([np.tensordot(weight[g], gram[g], axes=1) for g in groups])


TINY = 1e-30


def in_own_units(gram: Array) -> tuple[Array, Array]:
    """Gram matrices of regressors that are scaled to size 1, and the sizes ``(..., regressor)`` they had.

    A constant is of another size than features, and a ridge should hold all back alike.
    """
    size = np.sqrt(np.maximum(np.einsum("...rr->...r", gram), TINY))
    return gram / (size[..., :, None] * size[..., None, :]), size


Multistep = Literal["anchored", "recursive"]
"""How a one-step formula serves a gap of many steps: from the computed features straight to each
target, or step by step on its own forecasts."""


def rows_of(
    solver: Solver, times: Array, history: Sequence[int], targets: Sequence[int], multistep: Multistep = "anchored"
) -> Array:
    """Weights ``(len(history), len(targets))`` of a solver with one row per group, zero where unused.

    Args:
        targets: for recursive use all steps of the gap, ascending.
    """
    if multistep == "recursive":
        return _recursive_rows(solver, times, history, targets)
    past = tuple(Instant(s, float(times[s])) for s in history)
    out = np.zeros((len(history), len(targets)))
    for j, t in enumerate(targets):
        row = _row(solver, past, Instant(t, float(times[t])))
        out[: len(row), j] = row
    return out


def _row(solver: Solver, past: tuple[Instant, ...], target: Instant) -> Array:
    return _formula(solver, past, target) if isinstance(solver, ClosedFormSolver) else solver.rows(past, target)[:, 0]


@lru_cache(maxsize=100_000)
def _formula(solver: ClosedFormSolver, past: tuple[Instant, ...], target: Instant) -> Array:
    """Schedules that are compared have most of their gaps in common."""
    return np.asarray(solver.rows(past, target)[:, 0])


def _recursive_rows(solver: Solver, times: Array, history: Sequence[int], targets: Sequence[int]) -> Array:
    """A forecast is linear in the computed features, so one that is made of forecasts is too."""
    known = list(zip(history, np.eye(len(history)), strict=True))  # newest first: step, weights over `history`
    for t in targets:
        used = known[: solver.depth]
        row = solver.rows([Instant(step, times[step]) for step, _ in used], Instant(t, times[t]))[:, 0]
        known.insert(0, (t, sum(w * weights for w, (_, weights) in zip(row, used, strict=False))))
    return np.stack([weights for _, weights in reversed(known[: len(targets)])], axis=1)


def residual_gram(gram: Array, weights: Array, history: ArrayLike, targets: ArrayLike) -> Array:
    """The Gram matrix R of the residuals, by the formula above.

    Args:
        gram: ``(..., step, step)``.
        weights: ``(..., *many, history, target)``.
        history, targets: steps, ``(*many, history)`` and ``(*many, target)``.

    Returns:
        ``(..., *many, target, target)``.
    """
    h, t = np.asarray(history), np.asarray(targets)
    past, cross, future = (gram[..., a[..., :, None], b[..., None, :]] for a, b in ((h, h), (h, t), (t, t)))
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
    gram: Array,
    schedule: Schedule,
    times: Array,
    step_weights: Array,
    solvers: Sequence[Solver],
    steps: Collection[int] | None = None,
) -> Array:
    """Cost ``(group,)`` of a whole schedule, gap by gap, through the runtime's own solvers.

    Args:
        gram: ``(group, step, step)``.
        solvers: one for each group, with one row per group.
        steps: the forecasts that count; all by default.
    """
    total = np.zeros(len(gram))
    different = {id(solver): solver for solver in solvers}
    for history, gap in gaps(schedule, max(solver.depth for solver in solvers)):
        targets = tuple(step for step in gap if steps is None or step in steps)
        if not targets:
            continue
        rows = {key: rows_of(solver, times, history, targets) for key, solver in different.items()}
        weights = np.stack([rows[id(solver)] for solver in solvers])
        total += gap_cost(residual_gram(gram, weights, history, targets), step_weights[list(targets)])
    return total


def mixed_cost(
    gram: Array,
    schedule: Schedule,
    times: Array,
    step_weights: Array,
    order: Sequence[str],
    solvers: Mapping[str, Sequence[Solver]],
) -> Array:
    """Cost ``(group,)`` of a whole schedule of which each step forecasts one of several points.

    Args:
        gram: ``(group, point and step, point and step)``.
        order: names of the points, as `gram` has them.
        solvers: by point, one for each group, with one row per group.
    """
    total, actions = np.zeros(len(gram)), schedule.actions()
    depth = max(solver.depth for of_groups in solvers.values() for solver in of_groups)
    for history, targets in gaps(schedule, depth):
        error = np.zeros(gram.shape[:2])
        for step in targets:
            (name,) = actions[step].forecast
            begin = order.index(name) * schedule.num_steps
            rows = [rows_of(solver, times, history, [step])[:, 0] for solver in solvers[name]]
            error[:, begin + np.asarray(history)] += step_weights[step] * np.stack(rows)
            error[:, begin + step] -= step_weights[step]
        used = np.flatnonzero(error.any(0))
        total += np.einsum("gr,grs,gs->g", error[:, used], gram[:, used[:, None], used], error[:, used], optimize=True)
    return total


def gaps(schedule: Schedule, depth: int) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """History and predicted steps of every run of predicted steps."""
    computed = (*schedule.computed_steps, schedule.num_steps)
    found = []
    for here, following in itertools.pairwise(computed):
        if following > here + 1:
            found.append((schedule.history(here + 1, depth), tuple(range(here + 1, following))))
    return found
