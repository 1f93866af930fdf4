"""Adams-Bashforth on backward slopes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from hyca_runtime.solvers.base import OrderedSolver, register


def integrate_slopes(nodes: np.ndarray, start: float, end: float) -> np.ndarray:
    r"""Weights of slopes at `nodes` in the integral of their polynomial, :math:`\int \ell_j(\tau)\, d\tau`."""
    areas = np.zeros(len(nodes))
    for j in range(len(nodes)):
        basis = np.poly1d([1.0])
        for other in np.delete(nodes, j):
            basis = basis * np.poly1d([1.0, -(other - start)]) / (nodes[j] - other)
        areas[j] = np.polyint(basis)(end - start)
    return areas


@register
@dataclass(frozen=True)
class AdamsBashforth(OrderedSolver):
    r"""Integrates the polynomial through the newest `order` slopes.

    The slope at a past step is the backward difference :math:`g_j = (F_j - F_{j+1})/(t_j - t_{j+1})`
    (index 0 is newest), since the true derivative of a feature is never computed. Then

    .. math:: \hat F(t) = F_0 + \sum_j g_j \int_{t_0}^{t} \ell_j(\tau)\, d\tau,

    with :math:`\ell_j` the Lagrange basis on :math:`t_0, t_1, \dots`. At even spacing and one step
    ahead order 2 has weights 5/2, -2, 1/2.

    Note: a backward slope lags its step by half a gap, so straight lines are the highest degree
    reproduced exactly whatever the order.

    References: Zheng et al. (2025), HyCa, arXiv 2510.04188, solver pool; Hairer, Norsett and Wanner
    (1993), Solving Ordinary Differential Equations I, III.1.
    """

    order: int = 2
    name: ClassVar[str] = "adams_bashforth"
    exact_degree: ClassVar[int] = 1
    orders: ClassVar[range] = range(2, 5)

    def weights(self, times: np.ndarray, target: float) -> np.ndarray:
        total = np.zeros(len(times))
        total[0] = 1.0
        gaps = times[:-1] - times[1:]
        areas = integrate_slopes(times[:-1], times[0], target) / gaps
        total[:-1] += areas
        total[1:] -= areas
        return total
