"""A solver in one file: linear extrapolation that trusts long gaps less.

Between the last two computed features the slope is known; a damped solver follows it only so far,
``F(t) = F0 + tau (1 - exp(-h / tau)) F'`` with horizon ``h``: for short horizons it is linear extrapolation, for long
ones it stays where it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from hyca_runtime.solvers import ClosedFormSolver, register


@register  # plans may name it from now on; other distributions use the entry point "hyca.solvers" instead
@dataclass(frozen=True)
class Damped(ClosedFormSolver):
    """`patience` is tau in units of the last gap between computed steps."""

    name: ClassVar[str] = "damped"
    patience: float = 2.0

    @property
    def depth(self) -> int:
        return 2

    def weights(self, times: np.ndarray, target: float) -> np.ndarray:
        if len(times) == 1:  # a run has begun: nothing but the newest feature is known
            return np.ones(1)
        gap = times[0] - times[1]
        slope = self.patience * (1 - np.exp(-(target - times[0]) / (self.patience * gap)))
        return np.array([1 + slope, -slope])
