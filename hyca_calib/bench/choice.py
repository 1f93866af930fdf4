"""Which settings of baselines are measured on the test split: chosen on the select split alone."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import itemgetter

from hyca_calib.baselines.score import Score
from hyca_calib.costs.same_cost import MORE, SAME_COST

SPARING = 1.5
"""A method with a lower FLOPs ratio is no baseline, unless it costs about the same: a cache that never acts agrees
perfectly with the full run."""
CLOSE_LOOK = 3
"""Settings of a family and a window that see the whole select split."""
FAR_DB = 6.0
"""A family that is further behind the best in a window has no row there; every family has one where it is nearest."""


def is_wanted(family: str, names: Sequence[str], only: Sequence[str]) -> bool:
    """Whether a family, one of these names, is asked for: by its name, or by a part of it that is nobody's name."""
    return not only or any(part == family or (part not in names and part in family) for part in only)


@dataclass(frozen=True)
class Window:
    """A range of FLOPs ratios, from `low` to `high`."""

    low: float
    high: float

    def holds(self, score: Score) -> bool:
        return not score.error and self.low <= score.flops_ratio <= self.high


def costs_of(ratios: Iterable[float]) -> list[float]:
    """The least FLOPs ratios of methods that are baselines of plans with these ratios."""
    return sorted({SPARING, *(max(ratio / MORE, SAME_COST) for ratio in ratios)})


def windows(ratios: Iterable[float]) -> list[Window]:
    """A window around each FLOPs ratio of a plan, and one of everything that spares enough to be a baseline."""
    found = [Window(max(ratio / MORE, SAME_COST), ratio * SAME_COST) for ratio in ratios]
    return [*found, Window(SPARING, math.inf)]


def chosen(scores: Sequence[Score], places: Sequence[Window], count: int = 1) -> list[Score]:
    """In each window the best setting of each family in reach, or so many; `CLOSE_LOOK` of them see more samples."""
    kept: dict[str, Score] = {}
    for found in _in_windows(scores, places).values():
        reach = [inside for behind, inside in found if behind <= FAR_DB] or [min(found, key=itemgetter(0))[1]]
        for inside in reach:
            kept |= {score.method: score for score in inside[:count]}
    return [*kept.values(), *_dear(scores, {score.family for score in kept.values()})]


def _dear(scores: Sequence[Score], known: set[str]) -> list[Score]:
    """The cheapest setting of each family that costs too much to be anybody's baseline."""
    found: dict[str, Score] = {}
    for score in scores:
        if not score.error and score.family not in known:
            found[score.family] = max(found.get(score.family, score), score, key=lambda s: (s.flops_ratio, s.mean_db))
    return list(found.values())


def _in_windows(scores: Sequence[Score], places: Sequence[Window]) -> dict[str, list[tuple[float, list[Score]]]]:
    """For each family and window that it has settings in: how far it is behind the best one there, and its settings."""
    found: dict[str, list[tuple[float, list[Score]]]] = {}
    for place in places:
        inside = sorted((s for s in scores if place.holds(s)), key=lambda s: -s.mean_db)
        for family in dict.fromkeys(score.family for score in inside):
            own = [score for score in inside if score.family == family]
            found.setdefault(family, []).append((inside[0].mean_db - own[0].mean_db, own))
    return found
