"""The explicit midpoint rule, the second-order Runge-Kutta of HyCa's pool."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from hyca_runtime.solvers.base import ClosedFormSolver, register


@register
@dataclass(frozen=True)
class RungeKutta(ClosedFormSolver):
    r"""One step along the slope over the last two gaps.

    Runge-Kutta evaluates slopes inside the step; here none can be evaluated, so the slope of its
    midpoint stage is the difference over the two newest gaps:

    .. math:: \hat F(t) = F_0 + (t - t_0)\,\frac{F_0 - F_2}{t_0 - t_2} .

    At even spacing the weights are 3/2, 0, -1/2. The long base halves the noise of `Newton` 1 at the
    price of a lag: on parabolas the slope belongs to a time one gap back.

    References: Zheng et al. (2025), HyCa, arXiv 2510.04188, solver pool; the taps as quoted by ports.
    """

    name: ClassVar[str] = "runge_kutta"
    depth: ClassVar[int] = 3
    exact_degree: ClassVar[int] = 1

    def weights(self, times: np.ndarray, target: float) -> np.ndarray:
        row = np.zeros(len(times))
        row[0] = 1.0
        if len(times) > 1:
            gain = (target - times[0]) / (times[0] - times[-1])
            row[0] += gain
            row[-1] -= gain
        return row
