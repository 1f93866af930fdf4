"""Real rollouts: the offline objective does not see that later network calls meet a changed latent."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

from hyca_calib.search.candidate import Candidate
from hyca_calib.search.options import RolloutLimits
from hyca_calib.search.settings import Settings
from hyca_calib.search.shared_rollouts import Rolled, SharedRollouts
from hyca_calib.search.stopwatch import Pulse, Stopwatch, TimeIsUpError
from hyca_runtime.schedule import DEFAULT, FEATURE, Action, Schedule

RIDGES = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
FEEDBACK_SHARES = (0.5, 0.25, 0.75, 1.0)
"""Shares of earlier errors that are taken back, see `with_feedback`."""
OTHERS = 4
"""Offline candidates that are rolled out after the finalists."""
GAIN_DB = 0.02
"""A smaller improvement is none."""
KICKS = 64
"""Pairs of moves that are tried where no single move improves."""


class LoopFitting(Protocol):
    """Rows of candidates fitted in runs of them, see `hyca_calib.search.closed_loop.InTheLoop`.

    Attributes:
        cost: of fitting one candidate's rows, in rollouts.
    """

    @property
    def cost(self) -> float: ...

    def can_fit(self, candidate: Candidate) -> bool:
        """Whether rows of such a candidate can be fitted so."""


def search_by_rollouts(
    candidates: Sequence[Candidate],
    limits: RolloutLimits,
    rollouts: SharedRollouts,
    seed: int,
    on_progress: Callable[[float, float], None] = lambda share, psnr: None,
    alternatives: Callable[[Pulse], Iterable[Candidate]] = lambda pulse: (),
    in_loop: LoopFitting | None = None,
) -> tuple[Candidate, float]:
    """Roll out the best candidates, then what gains most first: other shares taken back, other ridges, rows fitted in
    the loop, rows over more than their own past, more candidates and alternatives, steps moved.

    The ridge decides how far taps trust their fit, which a replay with a clean history overrates or
    underrates by several dB; a replay knows nothing of what the network mends by itself, either.

    Args:
        candidates: best first by the offline objective.
        rollouts: where they are done and remembered; none is repeated after an interruption.
        on_progress: told the share of the limits that is spent, and the best PSNR so far.
        alternatives: candidates in case the offline objective is wrong, see `sweep_damping`; made as time allows.
        in_loop: fits rows in runs of the candidates; None leaves that out.

    Returns:
        The winner and its PSNR in dB.
    """
    climb = _Climb(candidates[0], limits, rollouts, on_progress, in_loop)
    climb.improves(candidates[: limits.finalists])
    if not climb.best.settings.inherit:  # else nothing is fitted
        _fit_otherwise(climb)
    settled = climb.best.settings
    later = candidates[limits.finalists :][:OTHERS]
    others = [climb.like(candidate, settled, candidate.settings.ridge) for candidate in later]
    swept = (climb.like(candidate, settled, settled.ridge) for candidate in alternatives(climb.pulse))
    climb.try_all(itertools.chain(others, swept))
    shuffle = random.Random(seed)
    while climb.try_until_better(_moves_and_kicks(climb.best, shuffle)):
        pass
    rollouts.finish()
    return climb.best, climb.psnr


def _fit_otherwise(climb: _Climb) -> None:
    """Try the rows of the best candidate fitted in other ways."""
    if climb.best.settings.taps == "channel":
        climb.try_all([climb.best.moved(repay=repay) for repay in FEEDBACK_SHARES])
    climb.try_all([climb.best.moved(ridge=ridge) for ridge in RIDGES])
    if climb.best.settings.taps == "channel":
        climb.try_all([climb.best.moved(in_loop=True)] if climb.can_fit(climb.best) else [])
        climb.try_all([climb.best.moved(sources=sources) for sources in climb.best.sources])


@dataclass
class _Climb:
    """The best candidate so far, as long as the limits last."""

    best: Candidate
    limits: RolloutLimits
    rollouts: SharedRollouts
    on_progress: Callable[[float, float], None]
    in_loop: LoopFitting | None
    psnr: float = -math.inf
    each: Sequence[float] = ()
    tried: dict[Candidate, Rolled] = field(default_factory=dict)
    watch: Stopwatch = field(init=False)

    def __post_init__(self) -> None:
        self.watch = Stopwatch(60 * self.limits.minutes)

    def improves(self, window: Sequence[Candidate]) -> bool:
        """Roll out the window; whether its best candidate is the new best."""
        found = self.rollouts.score(window, self.each)
        self.tried.update(zip(window, found, strict=True))
        rolled, winner = max(zip(found, window, strict=True), key=lambda pair: (pair[0].whole, pair[0].score))
        better = rolled.whole and rolled.score > self.psnr + GAIN_DB
        if better:
            self.best, self.psnr, self.each = winner, rolled.score, rolled.each
        self.on_progress(self._share(), self.psnr)
        return better

    def can_fit(self, candidate: Candidate) -> bool:
        """Whether rows of such a candidate can be fitted in the loop."""
        return self.in_loop is not None and self.in_loop.can_fit(candidate)

    def like(self, candidate: Candidate, settled: Settings, ridge: float) -> Candidate:
        """A candidate with what was found best so far for others, as far as it can have that."""
        sources = settled.sources if settled.sources in candidate.sources else "own"
        in_loop = settled.in_loop and self.can_fit(candidate)
        return candidate.moved(repay=settled.repay, in_loop=in_loop, sources=sources, ridge=ridge)

    def pulse(self) -> None:
        """Progress between rollouts; see `Pulse`."""
        self.on_progress(self._share(), self.psnr)
        if self._share() >= 1:
            raise TimeIsUpError

    def try_all(self, moves: Iterable[Candidate]) -> None:
        for window in self._in_time(moves):
            self.improves(window)

    def try_until_better(self, moves: Iterable[Candidate]) -> bool:
        return any(self.improves(window) for window in self._in_time(moves))

    def _in_time(self, moves: Iterable[Candidate]) -> Iterator[Sequence[Candidate]]:
        coming = iter(moves)
        while self._share() < 1:
            try:
                window = list(itertools.islice(coming, self.limits.workers))
            except TimeIsUpError:
                return
            if not window:
                return
            yield window

    def _share(self) -> float:
        """The share of the limits that is spent."""
        rollouts = self.limits.rollouts
        fitting = self.in_loop.cost if self.in_loop else 0.0
        done = sum(rolled.share + fitting * of.settings.in_loop for of, rolled in self.tried.items())
        return min(1.0, max(self.watch.share, done / rollouts if rollouts else 0.0))


Shift = tuple[str, int, int]
"""Two steps that change what they do for a guidance branch."""
Move = Callable[[], Candidate]
"""Makes a candidate a small step away; most are never asked for it, and of long runs there are many."""


def _moves_and_kicks(candidate: Candidate, shuffle: random.Random) -> Iterator[Candidate]:
    """Candidates one step away, then some two steps away."""
    moves = _moves(candidate)
    shuffle.shuffle(moves)
    kicks = [shuffle.choice(_moves(shuffle.choice(moves)())) for _ in range(KICKS if moves else 0)]
    return (move() for move in moves + kicks)


def _moves(candidate: Candidate) -> list[Move]:
    """To candidates a small step away."""
    settings, schedule = candidate.settings, candidate.schedule
    start = max(settings.start, candidate.problem.trace.attributes.first_computed)
    moves: list[Move] = [partial(_moved, candidate, shift) for shift in _shifts(schedule, start)]
    if settings.inherit or settings.in_loop:  # which leaves little of how rows were fitted before
        return moves
    moves += [partial(candidate.moved, ridge=ridge) for ridge in (settings.ridge / 3, settings.ridge * 3)]
    shares = (settings.repay - 0.125, settings.repay + 0.125) if settings.taps == "channel" else ()
    return moves + [partial(candidate.moved, repay=share) for share in shares if 0 <= share <= 1]


def _moved(candidate: Candidate, shift: Shift) -> Candidate:
    return candidate.moved(_shifted(candidate.schedule, shift))


def neighbours(schedule: Schedule, start: int) -> list[Schedule]:
    """Schedules that differ in one step that does more, moved by one or two; the first `start` stay."""
    return [_shifted(schedule, shift) for shift in _shifts(schedule, start)]


def _shifts(schedule: Schedule, start: int) -> list[Shift]:
    found = list[Shift]()
    for branch in schedule.apart:
        actions = schedule.actions(branch)
        does = [_amount(action) for action in actions]
        fixed = {0, *schedule.of(branch).computed_steps[:start]}
        for step in (step for step in range(schedule.num_steps) if does[step] and step not in fixed):
            ends = (step + shift for shift in (-2, -1, 1, 2))
            found += [(branch, step, end) for end in ends if 0 < end < schedule.num_steps and does[end] < does[step]]
    return found


def _amount(action: Action) -> int:
    """How much an action does: nothing, a part, all in low precision, all."""
    if action.computes:
        return 3 if action.variant == DEFAULT else 2
    return int(FEATURE not in action.forecast)


def _shifted(schedule: Schedule, shift: Shift) -> Schedule:
    branch, one, other = shift
    table = list(schedule.tables[branch])
    table[one], table[other] = table[other], table[one]
    return Schedule(palette=schedule.palette, tables={**schedule.tables, branch: tuple(table)})
