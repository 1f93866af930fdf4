"""Following steps that were planned beforehand: the network is computed there, and held or extrapolated between."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from hyca_calib.baselines.stepwise import Stream, weighted
from hyca_runtime.feature import Feature
from hyca_runtime.point import CachePoint

__all__ = ["OUTPUT", "RESIDUAL", "Following", "counts", "near"]

RESIDUAL = CachePoint(kind="trunk", keep="residual")
OUTPUT = CachePoint(kind="output")


@dataclass(frozen=True)
class Following:
    """The rule of a plan.

    Attributes:
        computed: steps at which the network is computed.
        order: 0 holds the last feature; 1 goes on along the line through the last two, which is TaylorSeer of order 1
            (arXiv 2503.06923, eq. 3) with the real distances.
    """

    computed: frozenset[int]
    order: int = 0

    def forecast(self, stream: Stream) -> Feature | None:
        if stream.step in self.computed:
            return None
        past = stream.past
        if self.order == 0 or len(past) == 1:
            return weighted(past, (1.0,))
        ahead = (stream.step - past[0].step) / (past[0].step - past[1].step)
        return weighted(past, (1 + ahead, -ahead))


def counts(num_steps: int) -> tuple[int, ...]:
    """Numbers of computed steps that are worth trying: each up to a half of the run, then every third."""
    half = num_steps // 2
    return (*range(min(3, half), half), *range(half, num_steps, 3))


def near(ladder: Sequence[int], num_steps: int, percents: Sequence[int]) -> tuple[int, ...]:
    """The rungs nearest to shares of the run, given in percent."""
    wanted = (num_steps * percent / 100 for percent in percents)
    return tuple(dict.fromkeys(min(ladder, key=lambda rung: abs(rung - share)) for share in wanted))
