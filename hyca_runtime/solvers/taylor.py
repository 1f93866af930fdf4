"""TaylorSeer's expansion, as published."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from hyca_runtime.solvers.base import OrderedSolver, register


def repeated_differences(times: np.ndarray) -> list[np.ndarray]:
    """The i-th differences at the newest step as rows over the features, i from 0 to ``len(times) - 1``."""
    difference = np.eye(len(times))  # row j: the i-th difference at past step j
    found = [difference[0]]
    for _ in range(1, len(times)):
        gaps = times[: len(difference) - 1] - times[1 : len(difference)]
        difference = (difference[:-1] - difference[1:]) / gaps[:, None]
        found.append(difference[0])
    return found


@register
@dataclass(frozen=True)
class Taylor(OrderedSolver):
    r"""Taylor series whose i-th derivative is an i-times repeated backward difference.

    .. math:: \Delta^{i+1}_n = \frac{\Delta^i_n - \Delta^i_{n-1}}{t_n - t_{n-1}}, \qquad
              \hat F(t) = \sum_{i \le m} \frac{(t - t_n)^i}{i!} \Delta^i_n

    Every order divides by the *last* gap only, so with uneven gaps orders 2 and 3 are not exact on
    parabolas; `Newton` is the exact relative.

    References: Liu et al. (2025), TaylorSeer, arXiv 2503.06923, Eqs. 5-7.
    """

    name: ClassVar[str] = "taylor"
    exact_degree: ClassVar[int] = 1
    orders: ClassVar[range] = range(1, 4)

    def weights(self, times: np.ndarray, target: float) -> np.ndarray:
        differences = repeated_differences(times)
        ahead = target - times[0]
        return np.asarray(sum(row * ahead**i / math.factorial(i) for i, row in enumerate(differences)))
