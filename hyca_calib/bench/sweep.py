"""Trying settings of one method until the best ones at every cost lie inside what was tried."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from hyca_calib.baselines import Baseline, Family, Settings
from hyca_calib.baselines.score import Score

MOST = 300
"""The most settings of a family that are tried; a sweep that is cut there says so."""


@dataclass(frozen=True)
class Sweep:
    """What was tried of a family.

    Attributes:
        tried: every setting, with its score on the same few samples.
        open_ends: best settings of which a neighbour was not tried, or which lie at an open end of an axis.
    """

    family: str
    source: str
    refused: str
    tried: tuple[Score, ...]
    open_ends: tuple[str, ...]


def sweep(
    family: Family,
    measure: Callable[[Baseline], Score],
    costs: Sequence[float],
    most: int = MOST,
    tell: Callable[[int, str], None] = lambda number, name: None,
) -> Sweep:
    """Try `family.first()`, then the neighbours of the best setting at every cost, until none is left.

    Args:
        costs: FLOPs ratios; the best at a cost is the best of those that spend no more.
    """
    tried: dict[str, Score] = {}
    wanted = [family.baseline(settings) for settings in family.first()]
    while wanted and len(tried) < most:
        for baseline in wanted[: most - len(tried)]:
            tell(len(tried), baseline.name)
            tried[baseline.name] = measure(baseline)
        wanted = untried(family, list(tried.values()), costs)
    scores = tuple(tried.values())
    return Sweep(family.name, family.source, family.refused, scores, tuple(open_ends(family, scores, costs)))


def best_at(scores: Sequence[Score], costs: Sequence[float]) -> list[Score]:
    """The best settings that spend no more than each of the costs; each once."""
    found: dict[str, Score] = {}
    for cost in costs:
        inside = [score for score in scores if not score.error and score.flops_ratio >= cost]
        if inside:
            best = max(inside, key=lambda score: score.mean_db)
            found[best.method] = best
    return list(found.values())


def untried(family: Family, scores: Sequence[Score], costs: Sequence[float]) -> list[Baseline]:
    """Neighbours of the best settings that have no score yet; what does the very same as the best is passed over."""
    known = {score.method: score for score in scores}
    near = [_next(family, way, best, known) for best in best_at(scores, costs) for way in family.ways(best.settings)]
    return list({baseline.name: baseline for baseline in near if baseline is not None}.values())


def _next(family: Family, way: Sequence[Settings], best: Score, known: Mapping[str, Score]) -> Baseline | None:
    """The nearest setting on the way that may differ and has no score; None if the nearest that differs has one."""
    for baseline in map(family.baseline, way):
        if baseline.name not in known:
            return baseline
        if not known[baseline.name].same_as(best):
            return None
    return None


def open_ends(family: Family, scores: Sequence[Score], costs: Sequence[float]) -> list[str]:
    """Where a better setting may lie beyond what was tried."""
    best_ones = best_at(scores, costs)
    ends = [f"{best.method}: {', '.join(axes)}" for best in best_ones if (axes := family.edges(best.settings))]
    return ends + [f"{baseline.name}: not tried" for baseline in untried(family, scores, costs)]
