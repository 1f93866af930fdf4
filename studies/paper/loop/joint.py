"""Schedule and taps, one after the other, in turns, or in a race."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import Tensor

from hyca_calib.search.candidate import Candidate
from hyca_runtime.schedule import Schedule
from studies.paper.chapter import kept
from studies.paper.loop.racers import CLIMBING, raced
from studies.paper.loop.refinement_setup import RefinementSetup
from studies.paper.loop.rollout_race import RolloutRace

ROLLOUTS, RUNNERS = 24, 4
WAYS = {
    "refine the offline optimum": "no rollouts of schedules at all",
    "climb, then refine": "rollouts move the schedule first, taps are refined once",
    "in turns": "three times a third of both; taps of untouched gaps are kept",
    "race": f"the {RUNNERS} best schedules are refined for an eighth each, the best one goes on",
}


def joint(setup: RefinementSetup, way: str) -> dict[str, Any]:
    """One way, at equal numbers of rollouts and iterations; the test split judges."""
    iterations = setup.settings.iterations or 0
    name = f"joint {way}"
    if way == "refine the offline optimum":
        return setup.refined(name)
    if way == "climb, then refine":
        return setup.on(_moved(setup, setup.candidate.schedule, ROLLOUTS, 0)[0]).refined(name)
    if way == "in turns":
        return _in_turns(setup, name, iterations)
    runners = [setup.on(candidate) for candidate in _moved(setup, setup.candidate.schedule, ROLLOUTS, 0)[:RUNNERS]]
    eighth = max(1, iterations // 8)
    heats = [runner.refined(f"{name}, heat {i}", iterations=eighth) for i, runner in enumerate(runners)]
    first = max(range(len(runners)), key=lambda i: heats[i]["select_psnr_after_db"])
    left = max(1, iterations - len(runners) * (iterations // 8))
    ahead = replace(runners[first], start=setup.taps_of(f"{name}, heat {first}"))
    return ahead.refined(name, iterations=left)


def _in_turns(setup: RefinementSetup, name: str, iterations: int) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for turn in range(3):
        moved = setup.on(_moved(setup, setup.candidate.schedule, ROLLOUTS // 3, turn)[0])
        start = _carried(setup, moved) if turn else moved.start
        turn_name = name if turn == 2 else f"{name}, turn {turn}"
        setup = replace(moved, start=start)
        found = setup.refined(turn_name, iterations=max(1, iterations // 3))
        setup = replace(setup, start=setup.taps_of(turn_name))
    return found


def _moved(setup: RefinementSetup, start: Schedule, rollouts: int, seed: int) -> list[Candidate]:
    """By closed-loop error with fitted taps, best first; the race is kept on disk."""
    context, limit = setup.context, 2 if setup.context.quick else rollouts

    def climbed() -> list[tuple[int, ...]]:
        settings, samples = setup.candidate.settings, setup.select
        race = RolloutRace(context.pipe, context.problem, settings, samples, start, limit, context.seed)
        known = raced(race, CLIMBING, seed).known
        return [schedule.computed_steps for schedule in sorted(known, key=lambda schedule: known[schedule])]

    name = f"climb {'-'.join(map(str, start.computed_steps))} {limit} {seed}.json"
    schedules = [Schedule.from_steps(start.num_steps, steps) for steps in kept(setup.folder / name, climbed)]
    return [replace(setup.candidate, schedule=schedule) for schedule in schedules]


def _carried(old: RefinementSetup, new: RefinementSetup) -> Tensor:
    """Taps of `new`, those of `old` where a step is forecast from the same history in both."""
    taps = new.start.clone()
    before = {step: i for i, step in enumerate(old.section.schedule.predicted_steps)}
    for i, step in enumerate(new.section.schedule.predicted_steps):
        if step in before and new.section.taps[step].history == old.section.taps[step].history:
            taps[i] = old.start[before[step]]
    return taps
