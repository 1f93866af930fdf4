"""Adams-Moulton as a predictor-corrector on backward slopes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from hyca_runtime.solvers.adams_bashforth import AdamsBashforth, integrate_slopes
from hyca_runtime.solvers.base import ClosedFormSolver, register


@register
@dataclass(frozen=True)
class AdamsMoulton(ClosedFormSolver):
    r"""Adams-Bashforth 2 predicts, Adams-Moulton 3 corrects (one iteration of PECE).

    The implicit formula integrates the parabola through the slopes at :math:`t, t_0, t_1`. The slope at
    the unknown end is that towards the prediction, :math:`\tilde g = (\tilde F - F_0)/(t - t_0)`:

    .. math:: \hat F(t) = F_0 + \int_{t_0}^{t} \big(\tilde g\, \ell(\tau) + g_0\, \ell_0(\tau)
              + g_1\, \ell_1(\tau)\big)\, d\tau .

    At even spacing the slopes weigh 5/12, 8/12, -1/12 and the features 55/24, -38/24, 7/24. The
    corrector damps what Adams-Bashforth 2 amplifies: the sum of absolute weights falls from 5 to 4.17.

    References: Zheng et al. (2025), HyCa, arXiv 2510.04188, solver pool; Hairer, Norsett and Wanner
    (1993), III.1.
    """

    name: ClassVar[str] = "adams_moulton"
    depth: ClassVar[int] = 3
    exact_degree: ClassVar[int] = 1

    def weights(self, times: np.ndarray, target: float) -> np.ndarray:
        predicted = AdamsBashforth(2).weights(times, target)
        if len(times) == 1:
            return predicted
        slopes = np.zeros((len(times), len(times)))  # rows: at the target, then at each past step but the oldest
        slopes[0] = (predicted - np.eye(len(times))[0]) / (target - times[0])
        for j in range(len(times) - 1):
            slopes[j + 1, j : j + 2] = np.array([1.0, -1.0]) / (times[j] - times[j + 1])
        nodes = np.concatenate([[target], times[:-1]])
        return np.asarray(np.eye(len(times))[0] + integrate_slopes(nodes, times[0], target) @ slopes)
