"""Schedule and taps, one after the other, in turns, or in a race."""

from dataclasses import replace
from typing import Any

from torch import Tensor

from hyca_calib.search.candidate import Candidate
from hyca_runtime.schedule import Schedule
from studies.paper.refining.setup import KEPT, RefinementSetup
from studies.paper.searching.races import CLIMBING, RolloutRace, raced

ROLLOUTS, RUNNERS = 24, 4


def jointly(setup: RefinementSetup) -> dict[str, dict[str, Any]]:
    """Every way, at equal numbers of rollouts and iterations; the test split judges.

    The offline optimum is refined as it is; or rollouts move the schedule first; or three times a third of both; or the
    best schedules are refined for an eighth each, and the best of these goes on.
    """
    climbed = _climbed(setup, ROLLOUTS, 0)
    return {
        "refine the offline optimum": setup.refined("joint refine the offline optimum"),
        "climb, then refine": setup.on(climbed[0]).refined("joint climb, then refine"),
        "in turns": _in_turns(setup, "joint in turns"),
        "race": _raced([setup.on(candidate) for candidate in climbed[:RUNNERS]], "joint race"),
    }


def _raced(runners: list[RefinementSetup], name: str) -> dict[str, Any]:
    iterations = runners[0].settings.iterations or 0
    eighth = max(1, iterations // 8)
    heats = [runner.refined(f"{name}, heat {i}", iterations=eighth) for i, runner in enumerate(runners)]
    first = max(range(len(runners)), key=lambda i: heats[i]["select_psnr_after_db"])
    left = max(1, iterations - len(runners) * (iterations // 8))
    ahead = replace(runners[first], start=runners[first].taps_of(f"{name}, heat {first}"))
    return ahead.refined(name, iterations=left)


def _in_turns(setup: RefinementSetup, name: str) -> dict[str, Any]:
    """Taps of gaps that a move leaves as they are, are kept."""
    third, found = max(1, (setup.settings.iterations or 0) // 3), {}
    for turn in range(3):
        moved = setup.on(_climbed(setup, ROLLOUTS // 3, turn)[0])
        setup = replace(moved, start=_carried(setup, moved)) if turn else moved
        turn_name = name if turn == 2 else f"{name}, turn {turn}"
        found = setup.refined(turn_name, iterations=third)
        setup = replace(setup, start=setup.taps_of(turn_name))
    return found


def _climbed(setup: RefinementSetup, rollouts: int, seed: int) -> list[Candidate]:
    """By closed-loop error with fitted taps, best first; the race is kept on disk."""
    context, start, limit = setup.context, setup.candidate, 2 if setup.context.quick else rollouts

    def climbed() -> list[tuple[int, ...]]:
        known = raced(RolloutRace(context.pipe, start, setup.select, limit), CLIMBING, seed).known
        return [schedule.computed_steps for schedule in sorted(known, key=lambda schedule: known[schedule])]

    name = f"{KEPT}/climb {'-'.join(map(str, start.schedule.computed_steps))} {limit} {seed}"
    return [start.moved(Schedule.from_steps(start.schedule.num_steps, at)) for at in context.kept(name, climbed)]


def _carried(old: RefinementSetup, new: RefinementSetup) -> Tensor:
    """Taps of `new`, those of `old` where a step is forecast from the same history in both."""
    taps = new.start.clone()
    before = {step: i for i, step in enumerate(old.section.schedule.predicted_steps)}
    for i, step in enumerate(new.section.schedule.predicted_steps):
        if step in before and new.section.taps()[step].history == old.section.taps()[step].history:
            taps[i] = old.start[before[step]]
    return taps
