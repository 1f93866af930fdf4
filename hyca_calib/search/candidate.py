"""A point of the search space: settings and a schedule, with the groups and solvers they lead to."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hyca_calib.clusters import cluster
from hyca_calib.features.descriptors import describe_channels
from hyca_calib.search.options import Grain, Sources
from hyca_calib.search.problem import Problem
from hyca_calib.search.replay import grouped, schedule_cost
from hyca_calib.search.solver_table import POOL, solver_label
from hyca_calib.search.taps import fit_solver
from hyca_runtime.schedule import Schedule
from hyca_runtime.solvers import Hold, Solver

FITTED = "fitted"
"""Label of the taps that are fitted to each group."""


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
        sources: what rows for channels weigh, see `Sources` and `joint_section`.
        repay: share of the error of earlier forecasts that rows for channels make up for, see `with_feedback`.
    """

    groups: int = 16
    descriptors: str = "energy+dynamics"
    clusterer: str = "kmeans"
    depth: int = 3
    ridge: float = 1e-3
    axis: str = "sigma"
    start: int = 1
    taps: Grain = "channel"
    sources: Sources = "own"
    repay: float = 0.0


@dataclass(frozen=True)
class Candidate:
    """Settings and a schedule for one problem; what follows from them is found when it is asked for, and kept.

    Attributes:
        seed: of the clusterer.
    """

    problem: Problem
    settings: Settings
    schedule: Schedule
    seed: int = 0

    def knowing(self, groups: list[NDArray[np.int64]] | None = None, cost: float | None = None) -> Candidate:
        """This candidate, spared from finding what the caller has found already."""
        known = {"groups": groups, "cost": cost}
        vars(self).update({name: value for name, value in known.items() if value is not None})
        return self

    def moved(self, schedule: Schedule | None = None, **settings: Any) -> Candidate:
        """A candidate with the same groups: with another schedule, or settings that do not concern the groups."""
        settled = replace(self.settings, **settings)
        return replace(self, settings=settled, schedule=schedule or self.schedule).knowing(groups=self.groups)

    @property
    def choices(self) -> dict[str, Any]:
        """What decides a rollout, for JSON."""
        return {"settings": asdict(self.settings), "computed": list(self.schedule.computed_steps)}

    @cached_property
    def groups(self) -> list[NDArray[np.int64]]:
        """Channel indices of each group."""
        return partition(self.problem, self.settings, self.seed)

    @cached_property
    def cost(self) -> float:
        """Replayed cost on the select split."""
        costs = list(self.solver_costs.values())
        return float(np.min(costs, axis=0).sum()) if costs else 0.0

    @cached_property
    def solver_costs(self) -> dict[str, list[float]]:
        """Replayed cost of every solver for each group on the select split; empty where nothing is predicted."""
        if not self.schedule.predicted_steps:
            return {}
        problem, times = self.problem, self.problem.times(self.settings.axis)
        judge = grouped(problem.select, problem.channel_gain, self.groups)
        return {
            label: schedule_cost(judge, self.schedule, times, problem.step_weights, solvers).tolist()
            for label, solvers in self._options.items()
        }

    @property
    def solvers(self) -> list[Solver]:
        """For each group the solver that is best at the horizons which the schedule really has."""
        return self._cheapest(self.solver_costs)

    @property
    def closed_forms(self) -> list[Solver]:
        """For each group the best solver that serves other steps, too."""
        return self._cheapest({label: costs for label, costs in self.solver_costs.items() if label != FITTED})

    @cached_property
    def _options(self) -> dict[str, list[Solver]]:
        """Solvers of all groups, by label: one closed form everywhere, or taps that are fitted to each group."""
        problem, settings = self.problem, self.settings
        fit, times = grouped(problem.fit, problem.channel_gain, self.groups), problem.times(settings.axis)
        found: dict[str, list[Solver]] = {solver_label(solver): [solver] * len(self.groups) for solver in POOL}
        found[FITTED] = [fit_solver(g[None], self.schedule, times, settings.depth, settings.ridge) for g in fit]
        return found

    def _cheapest(self, costs: dict[str, list[float]]) -> list[Solver]:
        if not costs:
            return [Hold()] * len(self.groups)
        best = [min(costs, key=lambda label: costs[label][g]) for g in range(len(self.groups))]
        return [self._options[label][g] for g, label in enumerate(best)]


def partition(problem: Problem, settings: Settings, seed: int) -> list[NDArray[np.int64]]:
    """Channel indices of each group."""
    if settings.groups == 1:
        return [np.arange(problem.trace.num_channels)]
    descriptors = describe_channels(problem.fit, tuple(settings.descriptors.split("+")))
    return cluster(settings.clusterer, descriptors, settings.groups, seed)
