"""A point of the search space: settings, groups, and a solver for each group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hyca_calib.clusters import cluster
from hyca_calib.features.descriptors import describe_channels
from hyca_calib.search.problem import Problem
from hyca_calib.search.replay import grouped, schedule_cost
from hyca_calib.search.solver_table import solver_label
from hyca_calib.search.taps import fit_solver
from hyca_runtime.schedule import Schedule
from hyca_runtime.solvers import (
    BDF2,
    BDF3,
    AdamsBashforth,
    AdamsMoulton,
    ClosedFormSolver,
    Exponential,
    FoCa,
    Hold,
    Newton,
    RungeKutta,
    Solver,
    Taylor,
)

__all__ = ["POOL", "Candidate", "Grain", "Settings", "best_closed", "choose_solvers", "partition", "replayed"]

POOL: tuple[ClosedFormSolver, ...] = (
    Hold(),
    Newton(1),
    Newton(2),
    Newton(3),
    Taylor(2),
    Taylor(3),
    AdamsBashforth(2),
    AdamsBashforth(3),
    AdamsMoulton(),
    BDF2(),
    BDF3(),
    RungeKutta(),
    FoCa(),
    Exponential(-0.5),
    Exponential(-1.0),
)
"""Closed-form solvers a group may prefer to its fitted taps. Taylor 1 and BDF 2 with slope are Newton 1."""


Grain = Literal["channel", "group"]


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
        taps: a row of taps for every channel, drawn by the ridge towards its group's, or one for every group.
        repay: share of the error of earlier forecasts that rows for channels make up for, see `repaying`.
    """

    groups: int = 16
    descriptors: str = "energy+dynamics"
    clusterer: str = "kmeans"
    depth: int = 3
    ridge: float = 1e-3
    axis: str = "sigma"
    start: int = 1
    taps: Grain = "channel"
    repay: float = 0.0


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

    def costs(solvers: Sequence[Solver]) -> list[float]:
        found: list[float] = schedule_cost(judge, schedule, times, problem.step_weights, solvers).tolist()
        return found

    table = {solver_label(solver): costs([solver] * len(groups)) for solver in POOL} | {"fitted": costs(fitted)}
    by_label = {solver_label(solver): solver for solver in POOL}
    chosen: list[Solver] = []
    for g in range(len(groups)):
        best = min(table, key=lambda name: table[name][g])
        chosen.append(fitted[g] if best == "fitted" else by_label[best])
    return chosen, table


def replayed(
    problem: Problem, settings: Settings, schedule: Schedule, groups: Sequence[NDArray[np.int64]]
) -> Candidate:
    """The candidate of `settings` and `schedule`, with the best solver for each of `groups`."""
    _, costs = choose_solvers(problem, settings, schedule, groups)
    cost = float(np.min(list(costs.values()), axis=0).sum()) if costs else 0.0
    return Candidate(settings, schedule, cost)


def best_closed(table: dict[str, list[float]], num_groups: int) -> list[Solver]:
    """For each group the closed form that replays best, from the table of `choose_solvers`."""
    if not table:
        return [Hold()] * num_groups
    return [min(POOL, key=lambda solver: table[solver_label(solver)][g]) for g in range(num_groups)]
