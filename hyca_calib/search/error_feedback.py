r"""Rows that make up for earlier forecasts.

When a step is computed, the gap before it is seen to have been forecast a little wrong, and by then the
error is in the latent. With :math:`a_j` the weight of an error at step j in the end, a schedule owes

.. math:: E = \sum_{j\ \text{forecast}} a_j \Big(\sum_k w_{jk} F_k - F_j\Big),

which the next forecasts can repay, as far as the features computed by then tell it: rows u with
:math:`\sum_k u_k F_k \approx -E` in least squares, spread over the steps of the gap. The corrector of
UniPC (arXiv 2302.04867) does the same for polynomials; here the rows come from Gram matrices. Repaying all
of it overshoots where the network mends errors itself, so the share is a setting, and rollouts choose it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hyca_calib.search.replay import gaps
from hyca_runtime.schedule import Schedule

__all__ = ["owed", "repaying"]

Array = NDArray[np.float64]

RIDGE, TINY = 1e-5, 1e-30


def repaying(taps: Array, schedule: Schedule, gram: Array, step_weights: Array, share: float) -> Array:
    """`taps` with rows added that repay.

    Args:
        taps: ``(predicted step, depth, channel)``, short histories padded with zeros.
        gram: ``(channel, step, step)``.
        step_weights: weight of an error at each step, ``(step,)``.
        share: how much of the debt, 0 to 1.
    """
    found, place = taps.copy(), {step: i for i, step in enumerate(schedule.predicted_steps)}
    debt = np.zeros((len(gram), schedule.num_steps))  # a row over the features of all steps, for each channel
    for history, targets in gaps(schedule, taps.shape[1]):
        weights = step_weights[list(targets)]
        if debt.any() and abs(weights.sum()) > TINY:
            extra = share * _settling(gram, list(history), debt) / weights.sum()
            for target in targets:
                found[place[target], : len(history)] += extra.T
        _owe(debt, found, place, history, targets, weights)
    return found


def owed(taps: Array, schedule: Schedule, gram: Array, step_weights: Array) -> Array:
    """Squared error in the end, ``(channel,)``, of a network that never looks at the latent."""
    place = {step: i for i, step in enumerate(schedule.predicted_steps)}
    debt = np.zeros((len(gram), schedule.num_steps))
    for history, targets in gaps(schedule, taps.shape[1]):
        _owe(debt, taps, place, history, targets, step_weights[list(targets)])
    return np.asarray(np.einsum("cs,cst,ct->c", debt, gram, debt))


def _owe(
    debt: Array,
    taps: Array,
    place: dict[int, int],
    history: tuple[int, ...],
    targets: tuple[int, ...],
    weights: Array,
) -> None:
    for target, weight in zip(targets, weights, strict=True):
        debt[:, list(history)] += weight * taps[place[target], : len(history)].T
        debt[:, target] -= weight


def _settling(gram: Array, history: list[int], debt: Array) -> Array:
    """Rows over `history` nearest to minus the debt, ``(channel, history)``."""
    past = gram[:, history][:, :, history]
    cross = np.einsum("cs,csh->ch", debt, gram[:, :, history])
    strength = np.maximum(RIDGE * np.trace(past, axis1=1, axis2=2) / len(history), TINY)
    damped = past + strength[:, None, None] * np.eye(len(history))
    return np.asarray(-np.linalg.solve(damped, cross[..., None])[..., 0])
