"""Verdicts on ways of searching by rollouts."""

from __future__ import annotations

from typing import Any

import numpy as np

from hyca_calib.metrics import interval
from studies.paper.chapter import Claim, Verdict
from studies.paper.effects import Ratio, student
from studies.paper.loop import objective
from studies.paper.loop.racers import CLIMBING, MODELS, PRUNED
from studies.paper.replay_setup import Array
from studies.paper.ruling import above, any_of, decide, listed, ruled, shared_level, told_db

EARNED_DB = 0.1
HALVED = 2.0
LEAST = 3
"""Samples that a variance without one of them needs."""


def claims(numbers: dict[str, Any]) -> tuple[Claim, ...]:
    """Verdicts of the chapter's numbers."""
    gains = numbers["gains_db"]
    return (
        ruled(
            f"Rollouts find what the offline objective misses (hill climbing gains over {EARNED_DB:g} dB on test "
            "samples that chose nothing).",
            lambda: _climbed(numbers["climbed"], numbers["test_prompts"], numbers["offline_rank"]),
        ),
        ruled(
            f"A model of the objective earns its place over plain hill climbing (some of {len(MODELS)} is over "
            f"{EARNED_DB:g} dB ahead on the split that is searched, corrected for their number).",
            lambda: _ahead(gains, MODELS),
        ),
        ruled(
            f"Giving up bad schedules after half of the samples pays (over {EARNED_DB:g} dB at equal cost).",
            lambda: _ahead(gains, (PRUNED,)),
        ),
        ruled(
            "Common random numbers make schedules comparable (they save at least half of the rollouts).",
            lambda: _common(numbers["contests"]),
        ),
        *objective.claims(numbers["objectives"]),
    )


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


def _climbed(test: dict[str, list[float]], prompts: list[int], rank: float) -> tuple[Verdict, str]:
    """By the mean gain of the climbs on each sample."""
    climbs = np.mean([values for name, values in test.items() if name.startswith(f"{CLIMBING}/")], axis=0)
    found = interval((climbs - np.array(test["offline optimum"])).tolist(), 0, prompts)
    return decide([above(found, EARNED_DB)]), (
        f"hill climbing gains {told_db(found)} dB on the offline optimum; over all schedules rolled out, offline cost "
        f"and closed-loop error have rank correlation {rank:.2f}."
    )


def _ahead(gains: dict[str, list[float]], rivals: tuple[str, ...]) -> tuple[Verdict, str]:
    """Seed by seed, by Student's interval over the seeds."""
    climbed, level = np.array(gains[CLIMBING]), shared_level(len(rivals))
    found = {name: student((np.array(gains[name]) - climbed).tolist(), level) for name in rivals}
    return decide([any_of(above(cell, EARNED_DB) for cell in found.values())]), (
        f"over {len(climbed)} seeds, dB above hill climbing, which gains {climbed.mean():+.2f} dB: "
        f"{listed(found, told=told_db)}."
    )


def _common(races: dict[str, dict[str, Any]]) -> tuple[Verdict, str]:
    tried = {tuple(steps): errors for held in races.values() for steps, errors in held["tried"]}
    whole = max(len(errors) for errors in tried.values())
    table = np.array([errors for errors in tried.values() if len(errors) == whole])
    if whole < LEAST or len(table) < 2:
        return "not decided", f"{len(table)} schedules were rolled out on {whole} samples; that says nothing of spread."
    found = rollouts_saved(table)
    mean, low, high = found
    return decide([above(found, HALVED)]), (
        f"on other prompts and noise, {mean:.1f} times as many rollouts ({low:.1f} to {high:.1f}) would be needed to "
        "tell two schedules apart."
    )
