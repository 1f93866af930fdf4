"""A point of the search space: settings, groups, and a solver for each group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hyca_calib.clusters import cluster
from hyca_calib.features.descriptors import describe_channels
from hyca_calib.replay import grouped, schedule_cost
from hyca_calib.search.problem import Problem
from hyca_calib.search.taps import fit_solver
from hyca_runtime.schedule import Schedule
from hyca_runtime.solvers import BDF2, AdamsBashforth, FoCa, Hold, Newton, Solver, Taylor

__all__ = ["POOL", "Candidate", "Settings", "best_closed", "choose_solvers", "partition"]

POOL: tuple[Solver, ...] = (
    Hold(),
    Newton(1),
    Newton(2),
    Newton(3),
    Taylor(2),
    Taylor(3),
    AdamsBashforth(2),
    AdamsBashforth(3),
    BDF2(),
    FoCa(),
)
"""Closed-form solvers a group may prefer to its fitted taps. Taylor 1 is Newton 1."""


@dataclass(frozen=True)
class Settings:
    """What Optuna tunes.

    Attributes:
        groups: number of channel groups asked of the clusterer.
        descriptors: families joined by "+".
        clusterer: name of the clusterer.
        depth: history of the fitted taps.
        ridge: pull of the taps towards linear extrapolation.
        axis: time axis of the solvers.
        start: leading steps that are always computed.
    """

    groups: int = 16
    descriptors: str = "energy+dynamics"
    clusterer: str = "kmeans"
    depth: int = 3
    ridge: float = 1e-3
    axis: str = "sigma"
    start: int = 1


@dataclass(frozen=True)
class Candidate:
    """Settings with the schedule that is best for them, and its replayed cost on the select split."""

    settings: Settings
    schedule: Schedule
    cost: float


def partition(problem: Problem, settings: Settings, seed: int) -> list[NDArray[np.int64]]:
    """Channel indices of each group."""
    if settings.groups == 1:
        return [np.arange(problem.trace.num_channels)]
    descriptors = describe_channels(problem.fit, tuple(settings.descriptors.split("+")))
    return cluster(settings.clusterer, descriptors, settings.groups, seed)


def choose_solvers(
    problem: Problem, settings: Settings, schedule: Schedule, groups: Sequence[NDArray[np.int64]]
) -> tuple[list[Solver], dict[str, list[float]]]:
    """For each group the solver that is best at the horizons `schedule` really has.

    Returns:
        The solvers, and every solver's replayed cost per group on the select split.
    """
    if not schedule.predicted_steps:
        return [Hold()] * len(groups), {}
    times = problem.times(settings.axis)
    fit, judge = (grouped(gram, problem.channel_gain, groups) for gram in (problem.fit, problem.select))
    fitted = [fit_solver(gram[None], schedule, times, settings.depth, settings.ridge) for gram in fit]
    table = {
        label(solver): schedule_cost(judge, schedule, times, problem.step_weights, [solver] * len(groups)).tolist()
        for solver in POOL
    }
    table["fitted"] = schedule_cost(judge, schedule, times, problem.step_weights, fitted).tolist()
    by_label = {label(solver): solver for solver in POOL}
    chosen = []
    for g in range(len(groups)):
        best = min(table, key=lambda name: table[name][g])
        chosen.append(fitted[g] if best == "fitted" else by_label[best])
    return chosen, table


def best_closed(table: dict[str, list[float]], num_groups: int) -> list[Solver]:
    """For each group the closed form that replays best, from the table of `choose_solvers`."""
    if not table:
        return [Hold()] * num_groups
    return [min(POOL, key=lambda solver: table[label(solver)][g]) for g in range(num_groups)]


def label(solver: Solver) -> str:
    order = getattr(solver, "order", None)
    return solver.name if order is None else f"{solver.name} {order}"
