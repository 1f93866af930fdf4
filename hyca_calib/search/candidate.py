"""A point of the search space: settings and a schedule, with the groups and solvers they lead to."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hyca_calib.clusters import cluster
from hyca_calib.features.descriptors import describe_channels
from hyca_calib.search.options import Sources
from hyca_calib.search.point_solvers import PointSolvers
from hyca_calib.search.problem import Problem
from hyca_calib.search.replay import grouped, mixed_cost
from hyca_calib.search.settings import Settings
from hyca_runtime.schedule import EVERY, Schedule


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
        return {"settings": asdict(self.settings), "schedule": self.schedule.model_dump(mode="json")}

    @property
    def of(self) -> str:
        """What it is, in a word of a file that keeps something of it."""
        decided = f"{self.problem.identity} {json.dumps(self.choices, sort_keys=True)}"
        return hashlib.sha256(decided.encode()).hexdigest()[:12]

    @cached_property
    def groups(self) -> list[NDArray[np.int64]]:
        """Channel indices of each group."""
        return partition(self.problem, self.settings, self.seed)

    @cached_property
    def parts(self) -> dict[tuple[str, str], PointSolvers]:
        """The solvers at each point that the schedule forecasts, by its name there; the problem's own first.

        For all guidance branches alike, `EVERY`, or for each that has steps of its own.
        """
        problem, names = (
            self.problem.under(self.schedule),
            {name for action in self.schedule.palette for name in action.forecast},
        )
        return {
            (name, branch): PointSolvers(
                problem.at(point).of(branch), self.settings, self.schedule.of(branch), name, self.groups
            )
            for name, point in problem.named.items()
            for branch in self.schedule.apart
            if name in names
        }

    @property
    def sources(self) -> tuple[Sources, ...]:
        """What its rows may weigh beside the own past of a branch; nothing where branches have steps of their own."""
        return self.problem.sources if self.schedule.apart == (EVERY,) else ()

    @cached_property
    def cost(self) -> float:
        """Replayed cost on the select split; where branches have steps of their own, the sum of what each costs."""
        if len({name for name, _ in self.parts}) > 1:
            return self._cost_of_all()
        tables = [list(found.costs.values()) for found in self.parts.values()]
        return float(sum(np.min(costs, axis=0).sum() for costs in tables if costs))

    def _cost_of_all(self) -> float:
        problem, solvers = self.problem, {name: found.solvers for (name, _), found in self.parts.items()}
        judge, times = grouped(problem.judge, problem.channel_gain, self.groups), problem.times(self.settings.axis)
        order = list(problem.named)
        return float(mixed_cost(judge, self.schedule, times, problem.step_weights, order, solvers).sum())

    @property
    def solver_costs(self) -> dict[str, list[float]]:
        """Replayed cost of every solver for each group, part by part."""
        costs = [found.costs for found in self.parts.values() if found.costs]
        return {label: [cost for of in costs for cost in of[label]] for label in (costs[0] if costs else ())}


def partition(problem: Problem, settings: Settings, seed: int) -> list[NDArray[np.int64]]:
    """Channel indices of each group."""
    if settings.groups == 1:
        return [np.arange(problem.trace.num_channels)]
    descriptors = describe_channels(problem.fit, tuple(settings.descriptors.split("+")))
    return cluster(settings.clusterer, descriptors, settings.groups, seed)
