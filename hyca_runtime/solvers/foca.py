"""FoCa: forecast, then calibrate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from hyca_runtime.solvers.base import ClosedFormSolver, register
from hyca_runtime.solvers.bdf import bdf2_gain


@register
@dataclass(frozen=True)
class FoCa(ClosedFormSolver):
    r"""BDF2 forecast, corrected by Heun's trapezoid; anchored on computed features.

    With :math:`\omega = (t - t_0)/(t_0 - t_1)` and :math:`\Delta = F_0 - F_1` the slope-free BDF2
    forecast is :math:`\tilde F = F_0 + \frac{\omega^2}{1+2\omega}\Delta`. Heun averages the last slope
    with the slope towards the forecast:

    .. math:: \hat F = F_0 + \tfrac12\big(\omega\Delta + (\tilde F - F_0)\big).

    Note: the paper fixes neither the slope nor the step of a many-step gap, and the public ports
    differ; this is the anchored form at the true, uneven times.

    References: Zheng et al. (2025), FoCa, arXiv 2508.16211.
    """

    name: ClassVar[str] = "foca"
    depth: ClassVar[int] = 2

    def weights(self, times: np.ndarray, target: float) -> np.ndarray:
        if len(times) == 1:
            return np.ones(1)
        ratio = (target - times[0]) / (times[0] - times[1])
        gain = 0.5 * (ratio + bdf2_gain(ratio))
        return np.array([1.0 + gain, -gain])
