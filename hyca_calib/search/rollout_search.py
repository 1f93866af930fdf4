"""Real rollouts: the offline objective does not see that later network calls meet a changed latent."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from hyca_calib.search.candidate import Candidate
from hyca_calib.search.options import RolloutLimits
from hyca_calib.search.shared_rollouts import SharedRollouts
from hyca_runtime.schedule import Schedule

RIDGES = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
FEEDBACK_SHARES = (0.5, 0.25, 0.75, 1.0)
"""Shares of earlier errors that are taken back, see `with_feedback`."""
OTHERS = 4
"""Offline candidates that are rolled out after the finalists."""
GAIN_DB = 0.02
"""A smaller improvement is none."""
KICKS = 64
"""Pairs of moves that are tried where no single move improves."""


def search_by_rollouts(
    candidates: Sequence[Candidate],
    limits: RolloutLimits,
    rollouts: SharedRollouts,
    seed: int,
    on_progress: Callable[[float, float], None] = lambda share, psnr: None,
    alternatives: Sequence[Candidate] = (),
) -> tuple[Candidate, float]:
    """Roll out the best candidates, then what gains most first: other shares taken back, other ridges, more candidates
    and alternatives, steps moved.

    The ridge decides how far taps trust their fit, which a replay with a clean history overrates or
    underrates by several dB; a replay knows nothing of what the network mends by itself, either.

    Args:
        candidates: best first by the offline objective.
        rollouts: where they are done and remembered; none is repeated after an interruption.
        seed: of the order in which moves are tried.
        on_progress: told the share of the limits that is spent, and the best PSNR so far.
        alternatives: candidates in case the offline objective is wrong, see `sweep_damping`.

    Returns:
        The winner and its PSNR in dB.
    """
    climb = _Climb(candidates[0], limits, rollouts, on_progress)
    climb.improves(candidates[: limits.finalists])
    if climb.best.settings.taps == "channel":
        climb.try_all([climb.best.moved(repay=repay) for repay in FEEDBACK_SHARES])
    climb.try_all([climb.best.moved(ridge=ridge) for ridge in RIDGES])
    repay, ridge = climb.best.settings.repay, climb.best.settings.ridge
    others = [candidate.moved(repay=repay) for candidate in candidates[limits.finalists :][:OTHERS]]
    climb.try_all(others + [candidate.moved(repay=repay, ridge=ridge) for candidate in alternatives])
    shuffle = random.Random(seed)
    while climb.try_until_better(_moves_and_kicks(climb.best, shuffle)):
        pass
    rollouts.finish()
    return climb.best, climb.psnr


@dataclass
class _Climb:
    """The best candidate so far, as long as the limits last."""

    best: Candidate
    limits: RolloutLimits
    rollouts: SharedRollouts
    on_progress: Callable[[float, float], None]
    psnr: float = -math.inf
    begun: float = field(default_factory=time.monotonic)
    tried: set[Candidate] = field(default_factory=set)

    def improves(self, window: Sequence[Candidate]) -> bool:
        """Roll out the window; whether its best candidate is the new best."""
        scores = self.rollouts.score(window)
        self.tried.update(window)
        psnr, winner = max(zip(scores, window, strict=True), key=lambda pair: pair[0])
        better = psnr > self.psnr + GAIN_DB
        if better:
            self.best, self.psnr = winner, psnr
        self.on_progress(self._share(), self.psnr)
        return better

    def try_all(self, moves: Sequence[Candidate]) -> None:
        for window in self._in_time(moves):
            self.improves(window)

    def try_until_better(self, moves: Sequence[Candidate]) -> bool:
        return any(self.improves(window) for window in self._in_time(moves))

    def _in_time(self, moves: Sequence[Candidate]) -> Iterator[Sequence[Candidate]]:
        for begin in range(0, len(moves), self.limits.workers):
            if self._share() >= 1:
                return
            yield moves[begin : begin + self.limits.workers]

    def _share(self) -> float:
        """The share of the limits that is spent."""
        seconds, rollouts = 60 * self.limits.minutes, self.limits.rollouts
        of_time = (time.monotonic() - self.begun) / seconds if seconds else 1.0
        return min(1.0, max(of_time, len(self.tried) / rollouts if rollouts else 0.0))


def _moves_and_kicks(candidate: Candidate, shuffle: random.Random) -> list[Candidate]:
    """Candidates one step away, then some two steps away."""
    moves = _moves(candidate)
    shuffle.shuffle(moves)
    return moves + [shuffle.choice(_moves(shuffle.choice(moves))) for _ in range(KICKS if moves else 0)]


def _moves(candidate: Candidate) -> list[Candidate]:
    """Candidates a small step away."""
    settings = candidate.settings
    moves = [candidate.moved(schedule) for schedule in neighbours(candidate.schedule, settings.start)]
    moves += [candidate.moved(ridge=ridge) for ridge in (settings.ridge / 3, settings.ridge * 3)]
    shares = (settings.repay - 0.125, settings.repay + 0.125) if settings.taps == "channel" else ()
    return moves + [candidate.moved(repay=share) for share in shares if 0 <= share <= 1]


def neighbours(schedule: Schedule, start: int) -> list[Schedule]:
    """Schedules that differ in one computed step, moved by one or two; the first `start` stay."""
    computed = schedule.computed_steps
    found = []
    for i in range(max(1, start), len(computed)):
        for shift in (-2, -1, 1, 2):
            moved = computed[i] + shift
            if 0 < moved < schedule.num_steps and moved not in computed:
                found.append(Schedule.from_steps(schedule.num_steps, {*computed, moved} - {computed[i]}))
    return found
