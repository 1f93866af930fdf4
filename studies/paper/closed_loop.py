"""Searching schedules by rollouts: what the offline objective misses, and who finds it soonest."""

from __future__ import annotations

import contextlib
import json
import random
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from scipy.stats import spearmanr

from hyca_calib.budget import Budget
from hyca_calib.metrics import prompt_groups
from hyca_calib.search.candidate import Candidate, Settings
from hyca_calib.search.refine import to_db
from hyca_calib.search.tune import solve
from hyca_runtime.schedule import Schedule
from studies.paper.chapter import Chapter, Context, Table, finished
from studies.paper.effects import student
from studies.paper.loop import objective
from studies.paper.loop.contest import Contest, Samples, Spent, samples_of
from studies.paper.loop.contestants import CONTESTANTS, offline_costs
from studies.paper.loop.objective import measured
from studies.paper.loop.searched import CLIMBING, claims

matplotlib.use("Agg")

from matplotlib import pyplot

__all__ = ["claims", "closed_loop", "tables"]

BUDGET = "5x"
ROLLOUTS, SEEDS, SAMPLES, TESTED = 40, 3, 8, 24
FIGURE = "closed-loop.png"
CAPTION = "Best schedule so far on the select split by rollouts spent; mean over seeds, all from the offline optimum."


def closed_loop(context: Context) -> Chapter:
    """The chapter. Every contest is kept in the folder: an interrupted run goes on where it stopped."""
    settings = Settings(start=1)
    start = solve(context.problem, settings, (Budget.parse(BUDGET),), context.seed)[0].schedule
    samples = samples_of(context.problem, context.workload, "select").first(2 if context.quick else SAMPLES)
    rollouts, seeds = (3, 1) if context.quick else (ROLLOUTS, SEEDS)

    def contest() -> Contest:
        return Contest(context.pipe, context.problem, settings, samples, start, rollouts, context.seed)

    kept = context.folder / "closed-loop.parts.json"
    done: dict[str, dict[str, Any]] = json.loads(kept.read_text()) if kept.exists() else {}
    todo = [(name, seed) for name in CONTESTANTS for seed in range(seeds)]
    for i, (name, seed) in enumerate(todo):
        context.tell(i / len(todo), f"{name}, seed {seed}")
        if (key := f"{name}/{seed}") not in done:
            done[key] = _held(contest(), name, seed + context.seed)
            kept.write_text(json.dumps(done))
    _draw(done, seeds, context.folder / FIGURE)
    gains = {name: [_gain(done[f"{name}/{seed}"]) for seed in range(seeds)] for name in CONTESTANTS}
    context.tell(1.0, "objectives")
    objectives = measured(context, settings, samples)
    test = samples_of(context.problem, context.workload, "test").first(2 if context.quick else TESTED)
    chapter = Chapter(
        name="closed-loop",
        title="Schedules by rollouts",
        text=(_opening(samples, rollouts, seeds, done),),
        figures=((FIGURE, CAPTION),),
        numbers={
            "contests": done,
            "gains_db": gains,
            "offline_rank": _offline_and_closed(contest(), done),
            "objectives": objectives,
            "climbed": _climbed(context, settings, start, done, test),
            "test_prompts": prompt_groups(test.jobs),
        },
    )
    return finished(chapter, claims, tables)


def tables(numbers: dict[str, Any]) -> tuple[Table, ...]:
    """Gains of the contestants, then the objectives."""
    return (_table(numbers["gains_db"], numbers["contests"]), *objective.tables(numbers["objectives"]))


def _climbed(
    context: Context, settings: Settings, start: Schedule, done: dict[str, dict[str, Any]], test: Samples
) -> dict[str, list[float]]:
    """PSNR of each test sample under the offline optimum, and under what hill climbing found."""
    found = {"offline optimum": start}
    for key, held in done.items():
        if key.startswith(f"{CLIMBING}/"):
            found[key] = Schedule.from_steps(start.num_steps, held["computed"])
    return {
        name: objective.psnr(context, context.problem, Candidate(settings, schedule, 0.0), test)
        for name, schedule in found.items()
    }


def _held(contest: Contest, name: str, seed: int) -> dict[str, Any]:
    """One contestant's whole try."""
    with contextlib.suppress(Spent):
        CONTESTANTS[name](contest, random.Random(seed))
    return {
        "curve": contest.curve,
        "computed": list(contest.best.computed_steps),
        "tried": [[list(s.computed_steps), contest.parts[s].tolist()] for s in contest.known],
    }


def _gain(held: dict[str, Any]) -> float:
    """dB above the offline optimum."""
    return to_db(held["curve"][-1][1]) - to_db(held["curve"][0][1])


def _opening(samples: Samples, rollouts: int, seeds: int, done: dict[str, dict[str, Any]]) -> str:
    first = next(iter(done.values()))
    return (
        f"The offline optimum at {BUDGET} reaches {to_db(first['curve'][0][1]):.2f} dB with fitted taps. From "
        f"there each way of searching may spend {rollouts} rollouts of {len(samples.jobs)} select prompts, {seeds} "
        "times with other seeds; prompts and noise are the same for all."
    )


def _table(gains: dict[str, list[float]], done: dict[str, dict[str, Any]]) -> Table:
    rows, seeds = [], len(next(iter(gains.values())))
    for name, found in gains.items():
        mean, low, high = student(found)
        half = [_best_by(done[f"{name}/{seed}"]["curve"], 0.5) for seed in range(seeds)]
        schedules = len({tuple(t[0]) for seed in range(seeds) for t in done[f"{name}/{seed}"]["tried"]}) / seeds
        rows.append((name, mean, f"{low:.2f} to {high:.2f}" if seeds > 1 else "-", float(np.mean(half)), schedules))
    head = ("way", "gain, dB", "95 %", "gain at half the rollouts, dB", "schedules rolled out in full")
    return Table("Gain over the offline optimum on the select split.", head, tuple(rows))


def _best_by(curve: list[list[float]], share: float) -> float:
    limit = share * curve[-1][0]
    return to_db(min(error for spent, error in curve if spent <= max(limit, curve[0][0]))) - to_db(curve[0][1])


def _offline_and_closed(contest: Contest, done: dict[str, dict[str, Any]]) -> float:
    """Rank correlation of offline cost and closed-loop error over all schedules that were rolled out."""
    errors = {tuple(steps): float(np.mean(found)) for held in done.values() for steps, found in held["tried"]}
    schedules = [type(contest.start).from_steps(contest.start.num_steps, steps) for steps in errors]
    return float(spearmanr(offline_costs(contest, schedules), list(errors.values())).statistic)


def _draw(done: dict[str, dict[str, Any]], seeds: int, path: Path) -> None:
    figure, axes = pyplot.subplots(figsize=(7.5, 4), layout="constrained")
    for name in CONTESTANTS:
        curves = [done[f"{name}/{seed}"]["curve"] for seed in range(seeds)]
        grid = np.linspace(1, max(curve[-1][0] for curve in curves), 60)
        lines = [[_best_until(curve, x) for x in grid] for curve in curves]
        axes.plot(grid, np.mean(lines, axis=0), label=name, linewidth=2 if name == "hill climbing" else 1.2)
    axes.set(xlabel="rollouts spent", ylabel="dB above the offline optimum")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def _best_until(curve: list[list[float]], spent: float) -> float:
    return to_db(min(error for at, error in curve if at <= max(spent, curve[0][0]))) - to_db(curve[0][1])
