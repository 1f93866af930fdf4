r"""L2P: a forecast is a weighted sum of the last computed features, with weights learnt for every step.

Shen et al. (2026), "Beyond Fixed Formulas: Data-Driven Linear Predictor for Efficient Diffusion Models", arXiv
2604.26365 (CVPR 2026): the coefficients of a forecast are learnable numbers of each step, trained with a mean squared
error on the features of a few full runs. We have the abstract and no code (the release was announced only): what
follows is our reading. For step s and the newest computed steps :math:`h_1 > \dots > h_k` before it,

.. math:: \hat F_s = \sum_i w_{s,i} F_{h_i}, \qquad w_s = \arg\min_w \sum \Big\| F_s - \sum_i w_i F_{h_i} \Big\|^2 ,

summed over samples of the fit split, tokens, channels and guidance branches: one set of weights for all channels. A
linear problem has an exact answer, which we take from the Gram matrix of the trace, with a ridge of 1e-6 of its mean
diagonal for the sake of rounding; the paper trains for about 20 seconds.

Left open by what we could read, and chosen here: how many features a forecast sees (`K`, swept), whether forecast ones
are among them (no), where features are taken (the input of the final norm, our best point), and the schedule (that of
TaylorSeer, which the same group's papers use: W steps first, then every N-th).
"""

from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hyca_calib.baselines.base import Applied, Axis, Family, Settings, Setup, counts
from hyca_calib.baselines.stepwise import Weights, refusal, tabled
from hyca_runtime.schedule import Schedule

RIDGE = 1e-6


def learnt_weights(gram: NDArray[np.float64], schedule: Schedule, depth: int, ridge: float = RIDGE) -> Weights:
    """Least squares for each predicted step.

    Args:
        gram: inner products of the features of all steps, ``(step, step)``.
        depth: most features that a forecast sees.
        ridge: as a share of the mean squared norm of those features.
    """
    found = {}
    for target in schedule.predicted_steps:
        past = list(schedule.history(target, depth))
        normal = gram[np.ix_(past, past)]
        damped = normal + ridge * np.trace(normal) / len(past) * np.eye(len(past))
        found[target] = np.linalg.solve(damped, gram[past, target]).tolist()
    return found


def l2p_family(pipe: Any, setup: Setup) -> Family:
    """L2P with all its settings; it learns when it is first applied."""
    num = setup.num_steps

    @cache
    def gram() -> NDArray[np.float64]:
        return np.asarray(setup.problem().gram("fit").sum(axis=0))

    def apply(pipe: Any, settings: Settings) -> Applied:
        interval, warmup, depth = (int(settings[name]) for name in ("N", "W", "K"))
        schedule = Schedule.every(num, interval, warmup)
        named = f"L2P weights, trunk, every {interval} after {warmup}, last {depth}, ridge {RIDGE:g}"
        learnt = setup.recall(named, lambda: list(learnt_weights(gram(), schedule, depth).items()))
        return tabled(pipe, dict(learnt))

    axes = (
        Axis("N", counts(1, num, 1.15), tuple(n for n in (2, 3, 4, 6, 8, 12) if n <= num), closed=True),
        Axis("W", counts(1, num - 1), (2,), closed=True),
        Axis("K", counts(1, num - 1), (2, 3), closed=True),
    )
    source = "Shen et al. 2026, arXiv 2604.26365; rewritten from the abstract, no code was released"
    return Family("L2P", source, axes, apply, num, refused=refusal(pipe))
