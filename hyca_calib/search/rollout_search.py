"""Real rollouts: the offline objective does not see that later network calls meet a changed latent."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from hyca_calib.pipelines.workload import Job
from hyca_calib.search.candidate import Candidate
from hyca_calib.search.refine import to_db
from hyca_calib.search.rollout_error import log_errors
from hyca_calib.search.shared_rollouts import Scoreboard
from hyca_runtime.plan import NetworkPlan
from hyca_runtime.schedule import Schedule

__all__ = ["Confirmation", "confirm", "rollout_psnr"]

RIDGES = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
REPAID = (0.5, 0.25, 0.75, 1.0)
OTHERS = 4
"""Offline candidates that are rolled out after the finalists."""
GAIN_DB = 0.02
"""A smaller improvement is none."""
KICKS = 64
"""Pairs of moves that are tried where no single move improves."""


@dataclass(frozen=True)
class Confirmation:
    """Limits of the rollouts.

    Attributes:
        minutes: wall time, 0 to trust the offline objective.
        finalists: offline candidates that are rolled out whatever the time.
        rollouts: no more than so many, if the time is not spent before; same result on every machine.
        workers: processes that search at once; so many moves are tried before the best of them is taken.
    """

    minutes: float = 1.0
    finalists: int = 2
    rollouts: int | None = None
    workers: int = 1


def rollout_psnr(pipe: Any, section: NetworkPlan, jobs: Sequence[Job], reference: Tensor, num_steps: int) -> float:
    """PSNR in dB of the final latents under `section`, from the mean log error over `jobs`."""
    return to_db(log_errors(pipe, section, jobs, reference, num_steps).mean().item())


def confirm(
    candidates: Sequence[Candidate],
    limits: Confirmation,
    board: Scoreboard,
    seed: int,
    on_progress: Callable[[float, float], None] = lambda share, psnr: None,
    hedges: Sequence[Candidate] = (),
) -> tuple[Candidate, float]:
    """Roll out the best candidates, then what gains most first: other shares repaid, other ridges, more candidates
    and hedges, steps moved.

    The ridge decides how far taps trust their fit, which a replay with a clean history overrates or
    underrates by several dB; a replay knows nothing of what the network mends by itself, either.

    Args:
        candidates: best first by the offline objective.
        board: where rollouts are done and remembered; none is repeated after an interruption.
        hedges: candidates in case the offline objective is wrong, see `hedged`.

    Returns:
        The winner and its PSNR in dB.
    """
    begun, seconds, tried = time.monotonic(), 60 * limits.minutes, set[Candidate]()

    def share() -> float:
        """Of the limits that is spent."""
        of_time = (time.monotonic() - begun) / seconds if seconds else 1.0
        return min(1.0, max(of_time, len(tried) / limits.rollouts if limits.rollouts else 0.0))

    best, best_psnr = candidates[0], -math.inf

    def improves(window: Sequence[Candidate]) -> bool:
        nonlocal best, best_psnr
        scores = board.score(window)
        tried.update(window)
        psnr, winner = max(zip(scores, window, strict=True), key=lambda pair: pair[0])
        better = psnr > best_psnr + GAIN_DB
        if better:
            best, best_psnr = winner, psnr
        on_progress(share(), best_psnr)
        return better

    def in_time(moves: Sequence[Candidate]) -> Iterator[Sequence[Candidate]]:
        for begin in range(0, len(moves), limits.workers):
            if share() >= 1:
                return
            yield moves[begin : begin + limits.workers]

    improves(candidates[: limits.finalists])
    if best.settings.taps == "channel":
        for window in in_time([_having(best, repay=repay) for repay in REPAID]):
            improves(window)
    for window in in_time([_having(best, ridge=ridge) for ridge in RIDGES]):
        improves(window)
    repay, ridge = best.settings.repay, best.settings.ridge
    others = [_having(c, repay=repay) for c in candidates[limits.finalists :][:OTHERS]]
    others += [_having(hedge, repay=repay, ridge=ridge) for hedge in hedges]
    for window in in_time(others):
        improves(window)
    shuffle = random.Random(seed)
    improved = True
    while improved:
        moves = _moves(best)
        shuffle.shuffle(moves)
        kicks = [shuffle.choice(_moves(shuffle.choice(moves))) for _ in range(KICKS)] if moves else []
        improved = any(improves(window) for window in in_time(moves + kicks))
    board.finish()
    return best, best_psnr


def _having(candidate: Candidate, **settings: Any) -> Candidate:
    """`candidate` with other settings."""
    return replace(candidate, settings=replace(candidate.settings, **settings))


def _moves(candidate: Candidate) -> list[Candidate]:
    """Candidates a small step away."""
    settings = candidate.settings
    moves = [replace(candidate, schedule=other) for other in neighbours(candidate.schedule, settings.start)]
    moves += [_having(candidate, ridge=ridge) for ridge in (settings.ridge / 3, settings.ridge * 3)]
    shares = (settings.repay - 0.125, settings.repay + 0.125) if settings.taps == "channel" else ()
    return moves + [_having(candidate, repay=share) for share in shares if 0 <= share <= 1]


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
