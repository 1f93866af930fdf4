r"""Rows that make up for earlier forecasts.

When a step is computed, the gap before it is seen to have been forecast a little wrong, and by then the
error is in the latent. With :math:`a_j` the weight of an error at step j in the end, a schedule has added up

.. math:: E = \sum_{j\ \text{forecast}} a_j \Big(\sum_k w_{jk} F_k - F_j\Big),

which the next forecasts can take back, as far as the features computed by then tell it: rows u with
:math:`\sum_k u_k F_k \approx -E` in least squares, spread over the steps of the gap. The corrector of
UniPC (arXiv 2302.04867) does the same for polynomials; here the rows come from Gram matrices. Taking back
all of it overshoots where the network damps errors itself, so the share is a setting, and rollouts choose it.
"""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np

from hyca_calib.search.replay import Array, in_own_units
from hyca_calib.search.rows import Places, Row

RIDGE, TINY = 1e-5, 1e-30


def with_feedback(
    taps: Array,
    rows: Sequence[Row],
    places: Places,
    gram: Array,
    step_weights: Array,
    share: float,
    guidance: Mapping[str, float],
) -> Array:
    """`taps` with rows added that take back what earlier gaps have added to the error of the guided output.

    Args:
        taps: ``(row, tap, channel)``, shorter rows padded with zeros.
        places: of each row in the Gram matrices.
        gram: ``(channel, regressor, regressor)``.
        step_weights: weight of an error at each step, ``(step,)``.
        share: how much of the error is taken back, 0 to 1.
        guidance: weight of each branch that has rows of its own in the guided output.
    """
    found, error = taps.copy(), np.zeros(gram.shape[:2])  # of each channel, as a row over all regressors
    order = sorted(range(len(rows)), key=lambda i: rows[i].step)
    for _, gap in itertools.groupby(order, key=lambda i: rows[i].newest):
        members = list(gap)
        effects = {i: step_weights[rows[i].step] * guidance[rows[i].branch] for i in members}
        moves = dict.fromkeys((rows[i].point for i in members), 0.0)  # what a move by the branches' weights does
        for i in members:
            moves[rows[i].point] += effects[i] * guidance[rows[i].branch]
        payer = max(moves, key=lambda point: abs(moves[point]))  # rows of one point, which weigh the same features
        if error.any() and abs(moves[payer]) > TINY:
            paying = [i for i in members if rows[i].point == payer]
            seen = sorted({place for i in paying for place in places[i][0]})
            extra = dict(zip(seen, (share / moves[payer] * _correction(gram, seen, error)).T, strict=True))
            for i in paying:
                for k, place in enumerate(places[i][0]):
                    found[i, k] += guidance[rows[i].branch] * extra[place]
        for i in members:
            history, target = places[i]
            error[:, history] += effects[i] * found[i, : len(history)].T
            error[:, target] -= effects[i]
    return found


def _correction(gram: Array, history: list[int], error: Array) -> Array:
    """Rows over `history` nearest to minus the error, ``(channel, history)``."""
    past = gram[:, history][:, :, history]
    alike, size = in_own_units(past)
    cross = np.einsum("cs,csh->ch", error, gram[:, :, history]) / size
    damped = alike + RIDGE * np.eye(len(history))
    return np.asarray(-np.linalg.solve(damped, cross[..., None])[..., 0] / size)
