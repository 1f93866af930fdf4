"""Backward differentiation formula without its slope term."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from hyca_runtime.solvers.base import ClosedFormSolver, register

__all__ = ["BDF2", "bdf2_gain"]


def bdf2_gain(ratio: float) -> float:
    r"""Factor of the last difference in slope-free BDF2, :math:`\omega^2 / (1 + 2\omega)`."""
    return ratio * ratio / (1.0 + 2.0 * ratio)


@register
@dataclass(frozen=True)
class BDF2(ClosedFormSolver):
    r"""Second-order BDF at uneven times with the unknown slope left out.

    Variable-step BDF2 with :math:`\omega = (t - t_0)/(t_0 - t_1)` reads

    .. math:: F(t) = \frac{(1+\omega)^2}{1+2\omega} F_0 - \frac{\omega^2}{1+2\omega} F_1
              + \frac{1+\omega}{1+2\omega} (t - t_0)\, F'(t).

    With the last difference for :math:`F'` it collapses to linear extrapolation; without it,
    :math:`\hat F = F_0 + \frac{\omega^2}{1+2\omega}(F_0 - F_1)`, it is a damped one: 4/3, -1/3 at
    :math:`\omega = 1`, and about half the linear step far ahead.

    References: Zheng et al. (2025), HyCa, arXiv 2510.04188, solver pool; Hairer, Norsett and Wanner
    (1993), III.5.
    """

    name: ClassVar[str] = "bdf2"

    @property
    def depth(self) -> int:
        return 2

    def weights(self, times: np.ndarray, target: float) -> np.ndarray:
        if len(times) == 1:
            return np.ones(1)
        gain = bdf2_gain((target - times[0]) / (times[0] - times[1]))
        return np.array([1.0 + gain, -gain])
