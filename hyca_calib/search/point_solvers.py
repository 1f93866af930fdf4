"""The solvers of all groups at one point, chosen by replay on the steps on which that point is forecast."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from hyca_calib.search.problem import Problem
from hyca_calib.search.replay import grouped, schedule_cost
from hyca_calib.search.settings import Settings
from hyca_calib.search.solver_table import POOL, solver_label
from hyca_calib.search.taps import fit_solver
from hyca_runtime.schedule import Schedule
from hyca_runtime.solvers import Hold, Solver

FITTED = "fitted"
"""Label of the taps that are fitted to each group."""


@dataclass(frozen=True)
class PointSolvers:
    """What forecasts each group at one point.

    Attributes:
        problem: of that point alone.
        name: of the point in the schedule's actions.
        groups: channel indices of each.
    """

    problem: Problem
    settings: Settings
    schedule: Schedule
    name: str
    groups: Sequence[NDArray[np.int64]]

    @cached_property
    def costs(self) -> dict[str, list[float]]:
        """Replayed cost of every solver for each group on the select split; empty where the point is not forecast."""
        steps = self.schedule.steps_of(self.name)
        if not steps:
            return {}
        problem, times = self.problem, self.problem.times(self.settings.axis)
        judge = grouped(problem.select, problem.channel_gain, self.groups)
        return {
            label: schedule_cost(judge, self.schedule, times, problem.step_weights, solvers, steps).tolist()
            for label, solvers in self._options.items()
        }

    @property
    def solvers(self) -> list[Solver]:
        """For each group the solver that is best at the horizons which the schedule really has."""
        return self._cheapest(self.costs)

    @property
    def closed_forms(self) -> list[Solver]:
        """For each group the best solver that serves other steps, too."""
        return self._cheapest({label: costs for label, costs in self.costs.items() if label != FITTED})

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
