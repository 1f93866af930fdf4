"""Which settings of rivals are measured on the test split: chosen on the select split alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from hyca_calib.peers.score import Score

__all__ = ["MORE", "SAME_COST", "SPARING", "Window", "candidates", "chosen", "costs_of", "windows"]

SAME_COST = 1.02
"""A method whose FLOPs ratio is up to this much higher counts as spending as much."""
SPARING = 1.5
"""A method with a lower FLOPs ratio is no rival, unless it costs about the same: a cache that never acts agrees
perfectly with the full run."""
MORE = 1.15
"""A rival that spends up to so much times our FLOPs costs about the same."""
CLOSE_LOOK = 3
"""Settings of a family and a window that see the whole select split."""


@dataclass(frozen=True)
class Window:
    """FLOPs ratios from `low` to `high`."""

    low: float
    high: float

    def holds(self, score: Score) -> bool:
        return not score.error and self.low <= score.flops_ratio <= self.high


def costs_of(ratios: Iterable[float]) -> list[float]:
    """The least FLOPs ratios at which a method is a rival of plans of these."""
    return sorted({SPARING, *(ratio / MORE for ratio in ratios)})


def windows(ratios: Iterable[float]) -> list[Window]:
    """What costs about as much as plans of these FLOPs ratios, and what costs more than the dearest of them."""
    found = [Window(ratio / MORE, ratio * SAME_COST) for ratio in ratios]
    return [*found, Window(SPARING, math.inf)]


def candidates(scores: Sequence[Score], places: Sequence[Window]) -> list[Score]:
    """Of each family and window the best few: they see more samples."""
    return _best(scores, places, CLOSE_LOOK)


def chosen(scores: Sequence[Score], places: Sequence[Window]) -> list[Score]:
    """Of each family and window the best one."""
    return _best(scores, places, 1)


def _best(scores: Sequence[Score], places: Sequence[Window], count: int) -> list[Score]:
    kept: dict[str, Score] = {}
    for family in dict.fromkeys(score.family for score in scores):
        of_family = [score for score in scores if score.family == family]
        for place in places:
            inside = sorted((s for s in of_family if place.holds(s)), key=lambda s: -s.mean_db)
            kept |= {score.method: score for score in inside[:count]}
    return list(kept.values())
