"""Schedule and taps, one after the other, in turns, or in a race."""

from __future__ import annotations

import contextlib
import json
import random
from dataclasses import replace
from typing import Any

from torch import Tensor

from hyca_runtime.schedule import Schedule
from studies.paper.loop.bed import Bed
from studies.paper.loop.contest import Contest, Spent
from studies.paper.loop.contestants import CONTESTANTS

__all__ = ["WAYS", "joint"]

ROLLOUTS, RUNNERS = 24, 4
WAYS = {
    "refine the offline optimum": "no rollouts of schedules at all",
    "climb, then refine": "rollouts move the schedule first, taps are refined once",
    "in turns": "three times a third of both; taps of untouched gaps are kept",
    "race": f"the {RUNNERS} best schedules are refined for an eighth each, the best one goes on",
}


def joint(bed: Bed, way: str) -> dict[str, Any]:
    """One way, at equal numbers of rollouts and iterations; the test split judges."""
    iterations = bed.settings.iterations or 0
    name = f"joint {way}"
    if way == "refine the offline optimum":
        return bed.refined(name)
    if way == "climb, then refine":
        return bed.on(_moved(bed, bed.candidate.schedule, ROLLOUTS, 0)[0]).refined(name)
    if way == "in turns":
        return _in_turns(bed, name, iterations)
    runners = [bed.on(candidate) for candidate in _moved(bed, bed.candidate.schedule, ROLLOUTS, 0)[:RUNNERS]]
    heats = [
        runner.refined(f"{name}, heat {i}", iterations=max(1, iterations // 8)) for i, runner in enumerate(runners)
    ]
    first = max(range(len(runners)), key=lambda i: heats[i]["select_psnr_after_db"])
    left = max(1, iterations - len(runners) * (iterations // 8))
    ahead = replace(runners[first], start=bed.taps_of(f"{name}, heat {first}"))
    return ahead.refined(name, iterations=left)


def _in_turns(bed: Bed, name: str, iterations: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for turn in range(3):
        moved = bed.on(_moved(bed, bed.candidate.schedule, ROLLOUTS // 3, turn)[0])
        start = _carried(bed, moved) if turn else moved.start
        turn_name = name if turn == 2 else f"{name}, turn {turn}"
        bed = replace(moved, start=start)
        found = bed.refined(turn_name, iterations=max(1, iterations // 3))
        bed = replace(bed, start=bed.taps_of(turn_name))
    return found


def _moved(bed: Bed, start: Schedule, rollouts: int, seed: int) -> list[Any]:
    """Candidates by closed-loop error with fitted taps, best first; the contest is kept on disk."""
    if bed.context.quick:
        rollouts = 2
    bed.folder.mkdir(parents=True, exist_ok=True)
    kept = bed.folder / f"climb {'-'.join(map(str, start.computed_steps))} {rollouts} {seed}.json"
    if not kept.exists():
        contest = Contest(
            bed.context.pipe,
            bed.context.problem,
            bed.candidate.settings,
            bed.select,
            start,
            rollouts,
            bed.context.seed,
        )
        with contextlib.suppress(Spent):
            CONTESTANTS["hill climbing"](contest, random.Random(seed))
        order = sorted(contest.known, key=lambda schedule: contest.known[schedule])
        kept.write_text(json.dumps([schedule.computed_steps for schedule in order]))
    return [
        replace(bed.candidate, schedule=Schedule.from_steps(start.num_steps, steps))
        for steps in json.loads(kept.read_text())
    ]


def _carried(old: Bed, new: Bed) -> Tensor:
    """Taps of `new`, those of `old` where a step is forecast from the same history in both."""
    taps = new.start.clone()
    before = {step: i for i, step in enumerate(old.section.schedule.predicted_steps)}
    for i, step in enumerate(new.section.schedule.predicted_steps):
        if step in before and new.section.taps[step].history == old.section.taps[step].history:
            taps[i] = old.start[before[step]]
    return taps
