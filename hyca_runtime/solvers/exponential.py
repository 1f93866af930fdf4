"""Exponential relaxation at a rate fixed offline."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from hyca_runtime.solvers.base import ClosedFormSolver, register


@register
@dataclass(frozen=True)
class Exponential(ClosedFormSolver):
    r"""Exact on :math:`a + b\, e^{\lambda s}`, with s the time in units of the last gap.

    .. math:: \hat F(t) = F_0 + \frac{e^{\lambda\omega} - 1}{1 - e^{-\lambda}}\,(F_0 - F_1), \qquad
              \omega = \frac{t - t_0}{t_0 - t_1} .

    It is dynamic mode decomposition of one real mode and a constant, with the mode's rate known
    beforehand, which makes it a row of weights. A negative rate relaxes towards
    :math:`F_0 + (F_0 - F_1)/(e^{-\lambda} - 1)`, rate 0 is `Newton` 1, a positive one runs away.

    Args:
        rate: :math:`\lambda`, per last gap.

    References: Schmid (2010), dynamic mode decomposition, J. Fluid Mech. 656.
    """

    rate: float = -0.5
    name: ClassVar[str] = "exponential"
    depth: ClassVar[int] = 2

    def __post_init__(self) -> None:
        if not (math.isfinite(self.rate) and abs(self.rate) <= 10):
            raise ValueError(f"exponential: rate must lie in -10 to 10, got {self.rate}")

    @property
    def exact_degree(self) -> int:
        return 0 if self.rate else 1

    def weights(self, times: np.ndarray, target: float) -> np.ndarray:
        if len(times) == 1:
            return np.ones(1)
        ahead = (target - times[0]) / (times[0] - times[1])
        gain = math.expm1(self.rate * ahead) / -math.expm1(-self.rate) if self.rate else ahead
        return np.array([1.0 + gain, -gain])
