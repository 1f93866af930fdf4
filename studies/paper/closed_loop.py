"""Searching schedules by rollouts: what the offline objective misses, and who finds it soonest."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from hyca_calib.budget import Budget
from hyca_calib.search.candidate import Candidate, Settings
from hyca_calib.search.refine import to_db
from hyca_calib.search.tune import solve
from hyca_runtime.schedule import Schedule
from studies.paper.chapter import Chapter, Context, Table, finished, kept
from studies.paper.drawing import save, subplots
from studies.paper.effects import student
from studies.paper.loop import objective
from studies.paper.loop.racers import CLIMBING, RACERS, offline_costs, raced
from studies.paper.loop.rollout_race import RolloutRace
from studies.paper.loop.searched import claims
from studies.paper.rollouts import Samples, fitted_psnr_db, samples_of

BUDGET = "5x"
ROLLOUTS, SEEDS, SAMPLES, TESTED = 40, 3, 8, 24
FIGURE = "closed-loop.png"
CAPTION = "Best schedule so far on the select split by rollouts spent; mean over seeds, all from the offline optimum."

Races = dict[str, dict[str, Any]]
"""The course of each race, by ``racer/seed``."""


def closed_loop(context: Context) -> Chapter:
    """The chapter. Every race is kept in the folder: an interrupted run goes on where it stopped."""
    settings = Settings(start=1)
    start = solve(context.problem, settings, (Budget.parse(BUDGET),), context.seed)[0].schedule
    samples = samples_of(context.problem, context.workload, "select").first(2 if context.quick else SAMPLES)
    rollouts, seeds = (3, 1) if context.quick else (ROLLOUTS, SEEDS)

    def race() -> RolloutRace:
        return RolloutRace(context.pipe, context.problem, settings, samples, start, rollouts, context.seed)

    done: Races = {}
    todo = [(name, seed) for name in RACERS for seed in range(seeds)]
    for i, (name, seed) in enumerate(todo):
        context.tell(i / len(todo), f"{name}, seed {seed}")
        course = partial(_course, race(), name, seed + context.seed)
        done[f"{name}/{seed}"] = kept(context.folder / "races" / f"{name} {seed}.json", course)
    _draw(done, context.folder / FIGURE)
    context.tell(1.0, "objectives")
    test = samples_of(context.problem, context.workload, "test").first(2 if context.quick else TESTED)
    chapter = Chapter(
        name="closed-loop",
        title="Schedules by rollouts",
        text=(_opening(samples, rollouts, seeds, done),),
        figures=((FIGURE, CAPTION),),
        numbers={
            "contests": done,
            "gains_db": {name: [_best_db(course["curve"]) for course in _of(done, name)] for name in RACERS},
            "offline_rank": _offline_and_closed(race(), done),
            "objectives": objective.measured(context, settings, samples),
            "climbed": _climbed(context, settings, start, done, test),
            "test_prompts": test.prompts,
        },
    )
    return finished(chapter, claims, tables)


def tables(numbers: dict[str, Any]) -> tuple[Table, ...]:
    """Gains of the racers, then the objectives."""
    return (_table(numbers["gains_db"], numbers["contests"]), *objective.tables(numbers["objectives"]))


def _climbed(
    context: Context, settings: Settings, start: Schedule, done: Races, test: Samples
) -> dict[str, list[float]]:
    """PSNR of each test sample under the offline optimum, and under what hill climbing found."""
    found = {"offline optimum": start}
    for key, course in done.items():
        if key.startswith(f"{CLIMBING}/"):
            found[key] = Schedule.from_steps(start.num_steps, course["computed"])
    candidates = {name: Candidate(settings, schedule, 0.0) for name, schedule in found.items()}
    return {name: fitted_psnr_db(context, candidate, test) for name, candidate in candidates.items()}


def _course(race: RolloutRace, racer: str, seed: int) -> dict[str, Any]:
    """One racer's whole try."""
    raced(race, racer, seed)
    return {
        "curve": race.curve,
        "computed": list(race.best.computed_steps),
        "tried": [[list(s.computed_steps), race.parts[s].tolist()] for s in race.known],
    }


def _of(done: Races, racer: str) -> list[dict[str, Any]]:
    return [course for key, course in done.items() if key.rpartition("/")[0] == racer]


def _best_db(curve: list[list[float]], spent: float = np.inf) -> float:
    """dB above the offline optimum, after so many rollouts."""
    return to_db(min(error for at, error in curve if at <= max(spent, curve[0][0]))) - to_db(curve[0][1])


def _opening(samples: Samples, rollouts: int, seeds: int, done: Races) -> str:
    first = next(iter(done.values()))
    return (
        f"The offline optimum at {BUDGET} reaches {to_db(first['curve'][0][1]):.2f} dB with fitted taps. From "
        f"there each way of searching may spend {rollouts} rollouts of {len(samples.jobs)} select prompts, {seeds} "
        "times with other seeds; prompts and noise are the same for all."
    )


def _table(gains: dict[str, list[float]], done: Races) -> Table:
    cells = {}
    for name, found in gains.items():
        mean, low, high = student(found)
        courses = _of(done, name)
        half = [_best_db(course["curve"], 0.5 * course["curve"][-1][0]) for course in courses]
        schedules = len({tuple(steps) for course in courses for steps, _ in course["tried"]}) / len(courses)
        spread = f"{low:.2f} to {high:.2f}" if len(courses) > 1 else "-"
        cells[name] = (mean, spread, float(np.mean(half)), schedules)
    head = ("way", "gain, dB", "95 %", "gain at half the rollouts, dB", "schedules rolled out in full")
    return Table.of("Gain over the offline optimum on the select split.", head, cells)


def _offline_and_closed(race: RolloutRace, done: Races) -> float:
    """Rank correlation of offline cost and closed-loop error over all schedules that were rolled out."""
    errors = {tuple(steps): float(np.mean(found)) for course in done.values() for steps, found in course["tried"]}
    schedules = [Schedule.from_steps(race.start.num_steps, steps) for steps in errors]
    return float(spearmanr(offline_costs(race, schedules), list(errors.values())).statistic)


def _draw(done: Races, path: Path) -> None:
    figure, ((axes,),) = subplots(1, 1, (7.5, 4))
    for name in RACERS:
        curves = [course["curve"] for course in _of(done, name)]
        grid = np.linspace(1, max(curve[-1][0] for curve in curves), 60)
        lines = [[_best_db(curve, x) for x in grid] for curve in curves]
        axes.plot(grid, np.mean(lines, axis=0), label=name, linewidth=2 if name == CLIMBING else 1.2)
    axes.set(xlabel="rollouts spent", ylabel="dB above the offline optimum")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    save(figure, path)
