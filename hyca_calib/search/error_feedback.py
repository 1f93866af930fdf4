r"""Rows that make up for earlier forecasts.

When a step is computed, the gap before it is seen to have been forecast a little wrong, and by then the
error is in the latent. With :math:`a_j` the weight of an error at step j in the end, a schedule has added up

.. math:: E = \sum_{j\ \text{forecast}} a_j \Big(\sum_k w_{jk} F_k - F_j\Big),

which the next forecasts can take back, as far as the features computed by then tell it: rows u with
:math:`\sum_k u_k F_k \approx -E` in least squares, spread over the steps of the gap. The corrector of
UniPC (arXiv 2302.04867) does the same for polynomials; here the rows come from Gram matrices. Taking back
all of it overshoots where the network damps errors itself, so the share is a setting, and rollouts choose it.
"""

import numpy as np

from hyca_calib.search.replay import Array, gaps
from hyca_runtime.schedule import Schedule

RIDGE, TINY = 1e-5, 1e-30


def with_feedback(taps: Array, schedule: Schedule, gram: Array, step_weights: Array, share: float) -> Array:
    """`taps` with rows added that take back what earlier gaps have added to the error.

    Args:
        taps: ``(predicted step, depth, channel)``, short histories padded with zeros.
        gram: ``(channel, step, step)``.
        step_weights: weight of an error at each step, ``(step,)``.
        share: how much of the error is taken back, 0 to 1.
    """
    found, place = taps.copy(), {step: i for i, step in enumerate(schedule.predicted_steps)}
    error = np.zeros((len(gram), schedule.num_steps))  # a row over the features of all steps, for each channel
    for history, targets in gaps(schedule, taps.shape[1]):
        weights = step_weights[list(targets)]
        if error.any() and abs(weights.sum()) > TINY:
            extra = share * _correction(gram, list(history), error) / weights.sum()
            for target in targets:
                found[place[target], : len(history)] += extra.T
        for target, weight in zip(targets, weights, strict=True):
            error[:, list(history)] += weight * found[place[target], : len(history)].T
            error[:, target] -= weight
    return found


def _correction(gram: Array, history: list[int], error: Array) -> Array:
    """Rows over `history` nearest to minus the error, ``(channel, history)``."""
    past = gram[:, history][:, :, history]
    cross = np.einsum("cs,csh->ch", error, gram[:, :, history])
    strength = np.maximum(RIDGE * np.trace(past, axis1=1, axis2=2) / len(history), TINY)
    damped = past + strength[:, None, None] * np.eye(len(history))
    return np.asarray(-np.linalg.solve(damped, cross[..., None])[..., 0])
