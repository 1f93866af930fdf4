"""Kinds of axes that several rivals have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hyca_calib.baselines.base import Axis, Value

__all__ = ["INTERVALS", "WARMUPS", "AxisFrom", "nearest"]

INTERVALS = (*range(2, 26), 30, 36, 43, 50, 100)
"""Of full steps; with the last, only the first ones are computed."""
WARMUPS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 25)
"""First steps that are computed."""


@dataclass(frozen=True)
class AxisFrom(Axis):
    """An axis whose least value is natural (an interval of 2, no block) and that is open above."""

    def at_edge(self, value: Value) -> bool:
        return value == self.ladder[-1]


def nearest(values: tuple[float, ...], wanted: Sequence[float]) -> tuple[float, ...]:
    """Of `values`, those nearest to what is wanted."""
    return tuple(sorted({min(values, key=lambda value: abs(value - one)) for one in wanted}))
