"""Extrapolation of the polynomial through the newest features."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from hyca_runtime.solvers.base import OrderedSolver, register


def lagrange(times: np.ndarray, target: float) -> np.ndarray:
    r"""Weights of polynomial interpolation, :math:`w_i = \prod_{j \ne i} (t - t_j) / (t_i - t_j)`.

    Args:
        times: ``(k,)``, distinct.
        target: where the polynomial is evaluated.
    """
    away = target - times
    between = times[:, None] - times[None, :]
    np.fill_diagonal(between, 1.0)
    others = np.tile(away, (len(times), 1))
    np.fill_diagonal(others, 1.0)
    return np.asarray((others / between).prod(axis=1))


@register
@dataclass(frozen=True)
class Newton(OrderedSolver):
    r"""The degree-`order` polynomial through the last ``order + 1`` features, at uneven times.

    In Newton's form it is Taylor's series with divided differences for derivatives, which makes it
    exact for polynomials where TaylorSeer's differences are not (see `Taylor`). Order 1 is linear
    extrapolation :math:`\hat F = F_0 + \frac{t - t_0}{t_0 - t_1}(F_0 - F_1)`.
    """

    name: ClassVar[str] = "newton"
    orders: ClassVar[range] = range(1, 5)

    @property
    def exact_degree(self) -> int:
        return self.order

    def weights(self, times: np.ndarray, target: float) -> np.ndarray:
        return lagrange(times, target)
