r"""Fitted taps: least squares on Gram matrices, drawn towards linear extrapolation.

.. math:: w = w_{lin} + (G_{hh} + \lambda \tfrac{\mathrm{tr}\,G_{hh}}{|h|} I)^{-1}
              (G_{ht} - G_{hh} w_{lin})

With :math:`\lambda \to \infty` this is linear extrapolation in the sampler's time, with 0 plain
least squares, which overfits.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hyca_calib.replay import gaps, rows_of
from hyca_runtime.schedule import Schedule
from hyca_runtime.solvers import Fitted, Newton

__all__ = ["fit_rows", "fit_solver"]

Array = NDArray[np.float64]


def fit_rows(
    gram: Array,
    times: Array,
    history: Sequence[int],
    targets: Sequence[int],
    ridge: float,
    prior: Array | None = None,
) -> Array:
    """Taps ``(group, history, target)`` for Gram matrices ``(group, step, step)``.

    Args:
        prior: what the ridge draws towards, ``(group or 1, history, target)``; linear extrapolation
            if not given.
    """
    h, t = np.asarray(history), np.asarray(targets)
    past, cross = gram[:, h[:, None], h], gram[:, h[:, None], t]
    linear = rows_of(Newton(1), times, history, targets) if prior is None else prior
    strength = ridge * np.trace(past, axis1=1, axis2=2) / len(h)
    damped = past + strength[:, None, None] * np.eye(len(h))
    return np.asarray(linear + np.linalg.solve(damped, cross - past @ linear))


def fit_solver(gram: Array, schedule: Schedule, times: Array, depth: int, ridge: float) -> Fitted:
    """Taps of a whole schedule, one column for each of the ``(column, step, step)`` Gram matrices."""
    steps: list[int] = []
    rows = []
    for history, targets in gaps(schedule, depth):
        taps = fit_rows(gram, times, history, targets, ridge)
        padded = np.zeros((len(targets), depth, len(gram)))
        padded[:, : len(history)] = taps.transpose(2, 1, 0)
        steps.extend(targets)
        rows.append(padded)
    return Fitted(tuple(steps), np.concatenate(rows))
