"""Backward differentiation formulas, with the unknown slope left out or replaced."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from hyca_runtime.solvers.base import ClosedFormSolver, register


def bdf2_gain(ratio: float) -> float:
    r"""Factor of the last difference in slope-free BDF2, :math:`\omega^2 / (1 + 2\omega)`."""
    return ratio * ratio / (1.0 + 2.0 * ratio)


def bdf_weights(times: np.ndarray, target: float, slope: bool) -> np.ndarray:
    r"""Weights of the formula through all of `times` and the unknown at `target`.

    The polynomial through the past features and the unknown one has at `target` the derivative
    :math:`d_* F(t) + \sum_i d_i F_i`. Set equal to the slope g and solved for F(t),

    .. math:: F(t) = -\sum_i \frac{d_i}{d_*} F_i + \frac{g}{d_*}, \qquad
              d_* = \sum_j \frac{1}{t - t_j}, \quad
              d_i = \frac{\prod_{j \ne i} (t - t_j)}{(t_i - t) \prod_{j \ne i} (t_i - t_j)} .

    Args:
        slope: whether g is the last difference; else it is left out.
    """
    if len(times) == 1:
        return np.ones(1)
    away = target - times
    own = (1.0 / away).sum()
    row = np.empty(len(times))
    for i in range(len(times)):
        others = np.delete(times, i)
        row[i] = np.prod(target - others) / (-away[i] * np.prod(times[i] - others))
    row = -row / own
    if slope:
        row[:2] += np.array([1.0, -1.0]) / (own * (times[0] - times[1]))
    return np.asarray(row)


@dataclass(frozen=True)
class _BDF(ClosedFormSolver):
    slope: bool = False
    order: ClassVar[int]

    @property
    def depth(self) -> int:
        return self.order

    @property
    def exact_degree(self) -> int:
        return int(self.slope)

    def weights(self, times: np.ndarray, target: float) -> np.ndarray:
        return bdf_weights(times, target, self.slope)


@register
@dataclass(frozen=True)
class BDF2(_BDF):
    r"""Second-order BDF at uneven times.

    With :math:`\omega = (t - t_0)/(t_0 - t_1)` it reads without the slope
    :math:`\hat F = F_0 + \frac{\omega^2}{1+2\omega}(F_0 - F_1)`, a damped extrapolation: 4/3, -1/3 at
    :math:`\omega = 1`, and about half the linear step far ahead. With the last difference for the
    slope it collapses to linear extrapolation.

    Args:
        slope: whether the last difference stands for the unknown slope.

    References: Zheng et al. (2025), HyCa, arXiv 2510.04188, solver pool; Hairer, Norsett and Wanner
    (1993), III.5.
    """

    name: ClassVar[str] = "bdf2"
    order: ClassVar[int] = 2


@register
@dataclass(frozen=True)
class BDF3(_BDF):
    """Third-order BDF at uneven times; without the slope 18/11, -9/11, 2/11 at even spacing.

    Args:
        slope: whether the last difference stands for the unknown slope.

    References: Hairer, Norsett and Wanner (1993), III.5.
    """

    name: ClassVar[str] = "bdf3"
    order: ClassVar[int] = 3
