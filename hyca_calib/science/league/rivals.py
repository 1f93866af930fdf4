"""Which settings of the peers meet our plans: screened on the select split, so that the test split chooses nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from hyca_calib.bench import MORE, SAME_COST, SPARING
from hyca_calib.peers import Peer, peers
from hyca_calib.peers.score import Score, score_or_error
from hyca_calib.science.chapter import Context
from hyca_calib.science.league.ground import Ground

__all__ = ["FIVEFOLD", "Window", "best_of", "chosen", "dearer", "equal", "screened"]

PER_FAMILY = 2
THINNED = 40
"""Of so many settings a quick chapter keeps one."""


@dataclass(frozen=True)
class Window:
    """FLOPs ratios from `low` to `high`."""

    low: float
    high: float

    def holds(self, score: Score) -> bool:
        return not score.error and self.low <= score.flops_ratio <= self.high


FIVEFOLD = Window(4.9, math.inf)


def dearer(ours: Score) -> Window:
    """Everything that spends at least as much as our plan, and spares a third of the full run."""
    return Window(SPARING, ours.flops_ratio * SAME_COST)


def equal(ours: Score) -> Window:
    """What spends about as much as our plan."""
    return Window(ours.flops_ratio / MORE, ours.flops_ratio * SAME_COST)


def screened(context: Context, ground: Ground, tell: Callable[[float, str], None]) -> list[tuple[Peer, Score]]:
    """Every setting of every peer, on the select split."""
    found = peers(context.pipe, context.workload.of("fit")[:8], context.workload.num_steps)
    if context.quick:
        found = found[::THINNED]
    scores = []
    for i, peer in enumerate(found):
        tell(i / len(found), peer.name)
        scores.append((peer, ground.score(peer, measure=score_or_error)))
    return scores


def chosen(found: Sequence[tuple[Peer, Score]], ours: Sequence[Score]) -> list[Peer]:
    """Of each family the best settings that cost as much as one of `ours`, as much or more, or a fifth at most.

    Among those that cost as much, also the one nearest to the exact run.
    """
    near = [equal(score) for score in ours]
    windows = [FIVEFOLD, *near, *(dearer(score) for score in ours)]
    kept: dict[str, Peer] = {}
    for family in dict.fromkeys(score.family for _, score in found):
        of_family = [(peer, score) for peer, score in found if score.family == family]
        for window in windows:
            inside = [(peer, score) for peer, score in of_family if window.holds(score)]
            inside.sort(key=lambda pair: -pair[1].mean_db)
            kept |= {peer.name: peer for peer, _ in inside[:PER_FAMILY]}
        for window in near:
            inside = [(peer, score) for peer, score in of_family if window.holds(score)]
            if inside:
                peer, _ = max(inside, key=lambda pair: pair[1].mean_exact_db)
                kept[peer.name] = peer
    return list(kept.values())


def best_of(
    scores: Iterable[Score], window: Window, merit: Callable[[Score], float] = lambda score: score.mean_db
) -> Score | None:
    """The best score in the window."""
    return max((score for score in scores if window.holds(score)), key=merit, default=None)
