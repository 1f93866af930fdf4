"""Reuse of the newest feature."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from hyca_runtime.solvers.base import ClosedFormSolver, register


@register
@dataclass(frozen=True)
class Hold(ClosedFormSolver):
    r"""Plain reuse, :math:`\hat F = F(t_0)`.

    References: Selvaraju et al. (2024), FORA, arXiv 2407.01425.
    """

    name: ClassVar[str] = "hold"
    depth: ClassVar[int] = 1

    def weights(self, times: np.ndarray, target: float) -> np.ndarray:
        del times, target
        return np.ones(1)
