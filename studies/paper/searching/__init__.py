"""Searching schedules by rollouts: what the offline objective misses, and who finds it soonest."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from hyca_calib.quality.metrics import prompt_groups
from hyca_calib.search.candidate import Candidate
from hyca_calib.search.problem import Samples
from hyca_calib.search.replay import Array
from hyca_calib.search.rollout_error import to_db
from hyca_calib.search.settings import Settings
from hyca_runtime.schedule import Schedule
from studies.paper.chapter import NO_INTERVAL, Context, Numbers, Outline, Part, Rulings, Table
from studies.paper.drawing import bare, save, subplots
from studies.paper.intervals import Ratio, all_above, difference, shared_level, some_above, student
from studies.paper.rollouts import BUDGET, optimum, psnr_db
from studies.paper.searching import objective
from studies.paper.searching.races import CLIMBING, MODELS, PRUNED, RACERS, RolloutRace, offline_costs, raced
from studies.paper.words import claims, paragraphs, table

ROLLOUTS, SEEDS, SAMPLES, TESTED = 40, 3, 8, 24
EARNED_DB = 0.1
HALVED = 2.0
LEAST = 3
"""Samples that a variance without one of them needs."""
FIGURE = "closed-loop.png"
CAPTION = "Best schedule so far on the select split by rollouts spent; mean over seeds, all from the offline optimum."

Races = dict[str, dict[str, Any]]
"""The course of each race, by ``racer/seed``."""


def measure(context: Context) -> Part:
    """Every race is kept in the folder: an interrupted run goes on where it stopped."""
    start = optimum(context, Settings(start=1))
    samples = context.problem.samples("select")[: 2 if context.quick else SAMPLES]
    test = context.problem.samples("test")[: 2 if context.quick else TESTED]
    rollouts, seeds = (3, 1) if context.quick else (ROLLOUTS, SEEDS)

    def course(racer: str, seed: int) -> dict[str, Any]:
        race = raced(RolloutRace(context.pipe, start, samples, rollouts), racer, seed + context.seed)
        tried = [[list(s.computed_steps), race.parts[s].tolist()] for s in race.known]
        return {"curve": race.curve, "computed": list(race.best.computed_steps), "tried": tried}

    todo = {f"{name}, seed {seed}": (name, seed) for name in RACERS for seed in range(seeds)}
    done: Races = {
        f"{name}/{seed}": context.kept(f"races/{name} {seed}", partial(course, name, seed))
        for _, (name, seed) in context.in_turn(todo)
    }
    _draw(done, context.folder / FIGURE)
    context.tell(1.0, "objectives")
    numbers = {
        "contests": done,
        "gains_db": {name: [_best_db(course["curve"]) for course in _of(done, name)] for name in RACERS},
        "offline_rank": _offline_and_closed(start, done),
        "objectives": objective.measured(context, start.settings, samples),
        "climbed": _climbed(context, start, done, test),
        "test_prompts": prompt_groups(test.jobs),
    }
    facts = {"rollouts": rollouts, "samples": len(samples.jobs), "seeds": seeds, "budget": BUDGET}
    text = paragraphs("closed-loop", "opening", **facts, start=to_db(next(iter(done.values()))["curve"][0][1]))
    return Part(numbers, tables(numbers), text)


def tables(numbers: Numbers) -> tuple[Table, ...]:
    """Gains of the racers, then the objectives."""
    cells = {}
    for name, gains in numbers["gains_db"].items():
        mean, low, high = student(gains)
        courses = _of(numbers["contests"], name)
        half = [_best_db(course["curve"], 0.5 * course["curve"][-1][0]) for course in courses]
        schedules = len({tuple(steps) for course in courses for steps, _ in course["tried"]}) / len(courses)
        spread = f"{low:.2f} to {high:.2f}" if len(courses) > 1 else "-"
        cells[name] = (mean, spread, float(np.mean(half)), schedules)
    return table("closed-loop", "racers", cells), *objective.tables(numbers["objectives"])


def rulings(numbers: Numbers) -> Rulings:
    """By the chapter's numbers."""
    return {
        **_found_more(numbers),
        **_ahead("models", numbers["gains_db"], [*MODELS]),
        **_ahead("pruned", numbers["gains_db"], [PRUNED]),
        **_common(numbers["contests"]),
        **objective.rulings(numbers["objectives"]),
    }


def rollouts_saved(errors: Array) -> Ratio:
    """How many times as many rollouts schedules of other prompts and noise each would need, with interval.

    The variance of the difference of two schedules' log errors over that on the same samples, by the jackknife over
    samples with Student's quantiles.

    Args:
        errors: ``(schedule, sample)``; each schedule is compared with the first.
    """

    def log_ratio(table: Array) -> float:
        alone = table[1:].var(1, ddof=1) + table[0].var(ddof=1)
        together = (table[1:] - table[:1]).var(1, ddof=1)
        return float(np.log(alone.mean() / together.mean()))

    count = errors.shape[1]
    whole = log_ratio(errors)
    parts = [count * whole - (count - 1) * log_ratio(np.delete(errors, i, axis=1)) for i in range(count)]
    mean, low, high = np.exp(student(parts))
    return float(mean), float(low), float(high)


def _found_more(numbers: Numbers) -> Rulings:
    """By the mean gain of the climbs on each sample."""
    test, found = numbers.get("climbed"), None
    if test:
        climbs = np.mean([values for name, values in test.items() if name.startswith(f"{CLIMBING}/")], axis=0)
        found = difference(climbs.tolist(), test["offline optimum"], numbers["test_prompts"])
    facts = {"found": found, "offline_rank": numbers["offline_rank"], "no_interval": NO_INTERVAL}
    return claims("closed-loop", {"more": all_above([found] if found else [], EARNED_DB)}, **facts, earned=EARNED_DB)


def _ahead(claim: str, gains: dict[str, list[float]], racers: Sequence[str]) -> Rulings:
    """Seed by seed, by Student's interval over the seeds."""
    climbed, level = gains[CLIMBING], shared_level(len(racers))
    ahead = {name: student(np.subtract(gains[name], climbed).tolist(), level) for name in racers}
    verdict = some_above(ahead.values(), EARNED_DB)
    return claims("closed-loop", {claim: verdict}, climbed=climbed, ahead=ahead, earned=EARNED_DB)


def _common(races: Races) -> Rulings:
    tried = {tuple(steps): errors for held in races.values() for steps, errors in held["tried"]}
    whole = max(len(errors) for errors in tried.values())
    table = np.array([errors for errors in tried.values() if len(errors) == whole])
    saved = rollouts_saved(table) if whole >= LEAST and len(table) > 1 else None
    verdict = all_above([saved] if saved else [], HALVED)
    return claims("closed-loop", {"common": verdict}, saved=saved, rolled=len(table), whole=whole)


def _climbed(context: Context, start: Candidate, done: Races, test: Samples) -> dict[str, list[float]]:
    """PSNR of each test sample under the offline optimum, and under what hill climbing found."""
    steps = start.schedule.num_steps
    climbs = {key: course["computed"] for key, course in done.items() if key.startswith(f"{CLIMBING}/")}
    found = {key: start.moved(Schedule.from_steps(steps, computed)) for key, computed in climbs.items()}
    return {key: psnr_db(context.pipe, one, test) for key, one in ({"offline optimum": start} | found).items()}


def _of(done: Races, racer: str) -> list[dict[str, Any]]:
    return [course for key, course in done.items() if key.rpartition("/")[0] == racer]


def _best_db(curve: list[list[float]], spent: float = np.inf) -> float:
    """dB above the offline optimum, after so many rollouts."""
    return to_db(min(error for at, error in curve if at <= max(spent, curve[0][0]))) - to_db(curve[0][1])


def _offline_and_closed(start: Candidate, done: Races) -> float:
    """Rank correlation of offline cost and closed-loop error over all schedules that were rolled out."""
    errors = {tuple(steps): float(np.mean(found)) for course in done.values() for steps, found in course["tried"]}
    steps = start.schedule.num_steps
    offline = offline_costs(start, [Schedule.from_steps(steps, computed) for computed in errors])
    return float(spearmanr(list(offline.values()), list(errors.values())).statistic)


def _draw(done: Races, path: Path) -> None:
    figure, ((axes,),) = subplots(1, 1, (7.5, 4))
    for name in RACERS:
        curves = [course["curve"] for course in _of(done, name)]
        grid = np.linspace(1, max(curve[-1][0] for curve in curves), 60)
        lines = [[_best_db(curve, x) for x in grid] for curve in curves]
        axes.plot(grid, np.mean(lines, axis=0), label=name, linewidth=2 if name == CLIMBING else 1.2)
    axes.set(xlabel="rollouts spent", ylabel="dB above the offline optimum")
    bare(axes)
    axes.legend(frameon=False, fontsize=8)
    save(figure, path)


CLOSED_LOOP = Outline("Schedules by rollouts", ("demo",), measure, rulings, {FIGURE: CAPTION})
