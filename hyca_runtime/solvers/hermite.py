"""HiCache's Hermite expansion, as published."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from hyca_runtime.solvers.base import OrderedSolver, register
from hyca_runtime.solvers.taylor import repeated_differences


@register
@dataclass(frozen=True)
class Hermite(OrderedSolver):
    r"""TaylorSeer's differences on contracted physicists' Hermite polynomials.

    .. math:: \hat F(t) = F_0 + \sum_{i=1}^{m} \frac{\Delta^i}{i!}\, \sigma^i H_i(\sigma k)\, u^i,
              \qquad H_1 = 2x,\; H_2 = 4x^2 - 2,\; H_{i+1} = 2x H_i - 2i H_{i-1},

    with :math:`\Delta^i` the repeated differences of `Taylor` and :math:`k = (t - t_0)/u`. Published in
    steps, where the unit is :math:`u` = 1; here it is the last gap over `gap_steps`, so that other axes
    may be used. Order 1 is linear extrapolation times :math:`2\sigma^2`, exact on lines only at
    :math:`\sigma = \sqrt{1/2}`; less contracts towards reuse.

    Args:
        order: 1 or 2 in the paper, up to 3 here.
        sigma: contraction, 0.5 in the paper.
        gap_steps: how many of the paper's units the last gap has: the refresh interval N.

    References: HiCache, arXiv 2508.16984.
    """

    sigma: float = 0.5
    gap_steps: float = 1.0
    name: ClassVar[str] = "hermite"
    orders: ClassVar[range] = range(1, 4)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.sigma <= 1 or not self.gap_steps > 0:
            raise ValueError(
                f"hermite: sigma must be in (0, 1], gap_steps positive, got {self.sigma}, {self.gap_steps}"
            )

    @property
    def exact_degree(self) -> int:
        return 1 if self.order == 1 and math.isclose(2 * self.sigma**2, 1) else 0

    def weights(self, times: np.ndarray, target: float) -> np.ndarray:
        differences = repeated_differences(times)
        total = differences[0].copy()
        if len(times) == 1:
            return total
        unit = (times[0] - times[1]) / self.gap_steps
        x = self.sigma * (target - times[0]) / unit
        polynomials = [1.0, 2 * x]
        for i in range(1, len(times) - 1):
            polynomials.append(2 * x * polynomials[i] - 2 * i * polynomials[i - 1])
        for i in range(1, len(times)):
            total += differences[i] * (self.sigma * unit) ** i * polynomials[i] / math.factorial(i)
        return np.asarray(total)
