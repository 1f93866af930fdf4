r"""Fitted taps: least squares on Gram matrices, drawn towards linear extrapolation.

.. math:: w = w_{lin} + (G_{hh} + \lambda \tfrac{\mathrm{tr}\,G_{hh}}{|h|} I)^{-1}
              (G_{ht} - G_{hh} w_{lin})

With :math:`\lambda \to \infty` this is linear extrapolation in the sampler's time, with 0 plain
least squares, which overfits.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike

from hyca_calib.search.replay import Array, Multistep, gaps, rows_of
from hyca_runtime.schedule import Schedule
from hyca_runtime.solvers import Fitted, Newton, Solver

TINY = 1e-30


def fit_rows(gram: Array, history: ArrayLike, targets: ArrayLike, ridge: float, prior: Array) -> Array:
    """Taps ``(group, *many, history, target)`` for Gram matrices ``(group, step, step)``.

    Args:
        history, targets: steps, ``(*many, history)`` and ``(*many, target)``.
        prior: what the ridge draws towards, anything that broadcasts to the taps.
    """
    h, t = np.asarray(history), np.asarray(targets)
    past, cross = (gram[:, h[..., :, None], b[..., None, :]] for b in (h, t))
    strength = np.maximum(ridge * np.trace(past, axis1=-2, axis2=-1) / h.shape[-1], TINY)  # dead channels
    damped = past + strength[..., None, None] * np.eye(h.shape[-1])
    return np.asarray(prior + np.linalg.solve(damped, cross - past @ prior))


def fit_solver(gram: Array, schedule: Schedule, times: Array, depth: int, ridge: float) -> Fitted:
    """Taps of a whole schedule, one column for each of the ``(column, step, step)`` Gram matrices."""

    def rows(history: Sequence[int], targets: Sequence[int]) -> Array:
        prior = rows_of(Newton(1), times, history, targets)
        return fit_rows(gram, history, targets, ridge, prior).transpose(1, 2, 0)

    return _tabulate(schedule, depth, rows)


def compile_rows(solver: Solver, schedule: Schedule, times: Array, multistep: Multistep) -> Fitted:
    """The rows of a closed form on a schedule, as a table."""
    return _tabulate(
        schedule, solver.depth, lambda history, targets: rows_of(solver, times, history, targets, multistep)[..., None]
    )


def _tabulate(schedule: Schedule, depth: int, rows: Callable[[Sequence[int], Sequence[int]], Array]) -> Fitted:
    """`rows` gives ``(history, target, width)`` for each gap."""
    steps: list[int] = []
    tables = []
    for history, targets in gaps(schedule, depth):
        found = rows(history, targets)
        padded = np.zeros((len(targets), depth, found.shape[2]))
        padded[:, : len(history)] = found.transpose(1, 0, 2)
        steps.extend(targets)
        tables.append(padded)
    return Fitted(tuple(steps), np.concatenate(tables))
