"""The parts of a plan that belong to one network and one time grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import permutations

import numpy as np
from pydantic import Field, model_validator

from hyca_runtime.errors import HycaError, PlanError
from hyca_runtime.forecast import Forecast, GroupSolvers, Source
from hyca_runtime.plan_facts import Certificate, ModelFingerprint, Quality, TimeGrid, Timing, check_costs
from hyca_runtime.plan_part import PlanPart
from hyca_runtime.point import CachePoint
from hyca_runtime.policies import Policy, PolicySpec, ProbingPolicy, Scheduled, policy_from_spec
from hyca_runtime.schedule import EVERY, Action, Schedule
from hyca_runtime.solvers import (
    AdaptiveSolver,
    Aligned,
    Instant,
    TapTable,
    mixed_rows,
    tap_table,
)

MAX_STACKED = 8

SourceTaps = tuple[tuple[Source, Mapping[int, TapTable]], ...]
"""What is weighed beside the own past of a branch, with the weights of each step on which it is forecast."""


class NetworkPlan(PlanPart):
    """The part of a plan for one network and one time grid: where, when and how features are forecast.

    Attributes:
        component: name of the network in its pipeline; Wan 2.2 has a ``transformer`` and a ``transformer_2``.
        points: what can be forecast, by the names that the schedule's actions use.
        policy: what decides between the actions at run time; without one the schedule does.
        stacked: guidance branches that one call holds along its batch; those of more than one are named by
            `stacked_labels`.
        action_flops: FLOPs of one step with each action of the palette, as counted, all guidance branches together,
            without text encoder and decoder.
        timing: seconds of the same steps, on a machine where they were measured.
        quality, certificate: agreement on samples that the plan was chosen on, and on others.
    """

    component: str = "transformer"
    model: ModelFingerprint
    grid: TimeGrid
    points: dict[str, Forecast] = Field(min_length=1)
    schedule: Schedule
    policy: PolicySpec | None = None
    stacked: int = Field(default=1, ge=1, le=MAX_STACKED)
    action_flops: tuple[float, ...] | None = None
    timing: Timing | None = None
    quality: Quality | None = None
    certificate: Certificate | None = None

    @model_validator(mode="after")
    def _check(self) -> NetworkPlan:
        self.grid.check(self.schedule.num_steps)
        used = {name for action in self.schedule.palette for name in action.forecast}
        if unknown := used - self.points.keys():
            raise ValueError(f"schedule.palette: forecasts {min(unknown)!r}, the points are {sorted(self.points)}")
        if idle := self.points.keys() - used:
            raise ValueError(f"points.{min(idle)}: no action of the palette forecasts it")
        if "" in self.points:
            raise ValueError("points: a point has no name")
        for action in self.schedule.palette:
            self._check_action(action)
        computes = [action.computes for action in self.schedule.palette]
        for label, costs in (("action_flops", self.action_flops), ("timing.seconds", self.action_seconds)):
            if costs is not None:
                check_costs(label, costs, computes)
        try:
            for forecast in self.points.values():  # every row must exist and fit its group
                _ = self._taps, self._source_taps, forecast.fallback_depth
            self._check_probe()
        except HycaError as error:
            raise ValueError(str(error)) from error
        return self

    def _check_action(self, action: Action) -> None:
        """Points that are forecast together must not hold each other: what is inside another never runs."""
        for one, other in permutations(action.forecast, 2):
            if self.points[one].at.stands_for(self.points[other].at):
                raise ValueError(f"schedule.palette: {one!r} and {other!r} are forecast together, one holds the other")

    def _check_probe(self) -> None:
        """A policy that looks at what leading blocks make decides about what is behind them, and about that alone."""
        places = [str(forecast.at) for forecast in self.points.values()]
        fitting = "trunk:residual", f"behind:{self.probes}"
        if self.probes and (len(places) > 1 or places[0] not in fitting):
            raise ValueError(f"policy: {self.decider.name!r} needs one point, one of {fitting}, got {places}")
        for forecast in self.points.values():
            for branch in forecast.groups:
                solvers = [solver for _, solver in forecast.solvers(branch)]
                if any(isinstance(s, Aligned) for s in solvers) and (len(solvers) > 1 or not self.probes):
                    raise ValueError("groups: 'aligned' forecasts all channels, under a policy that probes")
                if self.is_joint and any(isinstance(s, AdaptiveSolver | Aligned) for s in solvers):
                    raise ValueError("groups: solvers that read features weigh the own past of a whole call alone")

    @cached_property
    def decider(self) -> Policy:
        """What decides between the actions."""
        return Scheduled() if self.policy is None else policy_from_spec(self.policy)

    @property
    def probes(self) -> int:
        """After how many blocks of a call decisions fall; 0 if they fall before it."""
        return self.decider.blocks if isinstance(self.decider, ProbingPolicy) else 0

    @property
    def is_joint(self) -> bool:
        """Whether a forecast weighs more than one feature tensor's past, or parts of a call each in their own way."""
        return self.stacked > 1 or any(point.sources for point in self.points.values())

    @property
    def branches(self) -> frozenset[str]:
        """The guidance branches that are named."""
        points = [{*point.groups, *point.sources} for point in self.points.values()]
        return frozenset({*self.schedule.tables}.union(*points) - {EVERY})

    @property
    def places(self) -> dict[str, CachePoint]:
        """Where the points are, by name."""
        return {name: forecast.at for name, forecast in self.points.items()}

    @property
    def only(self) -> str:
        """The name of the only point.

        Raises:
            PlanError: there are several.
        """
        if len(self.points) > 1:
            raise PlanError(f"the {self.component} is cached at {sorted(self.points)}, expected one point")
        return next(iter(self.points))

    @property
    def forecast(self) -> Forecast:
        """That of the only point."""
        return self.points[self.only]

    def keeps(self, action: Action, name: str) -> bool:
        """Whether a call with this action computes the tensors of a point: whether none of what they are made of is
        forecast."""
        return not any(self.points[other].at.is_part_of(self.points[name].at) for other in action.forecast)

    @cached_property
    def _taps(self) -> Mapping[tuple[str, str], Mapping[int, TapTable]]:
        branches = {*self.schedule.tables, *(branch for point in self.points.values() for branch in point.groups)}
        return {
            (name, branch): self._tabulated(name, branch, branch, point.solvers(branch))
            for name, point in self.points.items()
            for branch in branches
        }

    @cached_property
    def _source_taps(self) -> Mapping[tuple[str, str], SourceTaps]:
        return {
            (name, branch): tuple(
                (source, self._tabulated(name, branch, source.branch or branch, point.everywhere(source), source.live))
                for source in sources
            )
            for name, point in self.points.items()
            for branch, sources in point.sources.items()
        }

    def _tabulated(
        self, name: str, branch: str, read: str, groups: GroupSolvers, live: bool = False
    ) -> Mapping[int, TapTable]:
        """Weights by which a branch is forecast from the past of another, or its own.

        Args:
            live: whether a target itself counts as past.
        """
        kept = [step for step, action in enumerate(self.schedule.actions(read)) if self.keeps(action, name)]
        targets = [step for step, action in enumerate(self.schedule.actions(branch)) if name in action.forecast]
        return tap_table(kept, targets, self.grid.axis_times, groups, self.points[name].num_channels, live)

    def taps(self, name: str | None = None, branch: str = EVERY) -> Mapping[int, TapTable]:
        """The weights of each step on which a point is forecast, over the history that the schedule gives it.

        Args:
            name: of the point; may be left out if there is only one.
        """
        name = name or self.only
        return self._taps.get((name, branch), self._taps[name, EVERY])

    def sources(self, name: str, branch: str) -> SourceTaps:
        """What is weighed beside the own past of a branch at a point."""
        return self._source_taps.get((name, branch), self._source_taps.get((name, EVERY), ()))

    def weights_at(
        self, past: Sequence[float], position: float, name: str | None = None, branch: str = EVERY
    ) -> np.ndarray:
        """Weights ``(tap, channel)`` of the fallback solvers of a point at any positions, newest first.

        Args:
            past: where features were computed, in steps of this section, perhaps between two.
            position: the one to predict.
        """
        point = self.points[name or self.only]
        past = past[: point.fallback_depth]
        steps = np.arange(self.schedule.num_steps)
        times = np.interp([position, *past], steps, self.grid.axis_times)
        instants = [Instant(round(p), float(t)) for p, t in zip(past, times[1:], strict=True)]
        target = Instant(round(position), float(times[0]))
        return mixed_rows(instants, target, point.fallbacks(branch), point.num_channels)

    def depth(self, name: str | None = None) -> int:
        """How many computed features of a point a stream must remember."""
        name = name or self.only
        tables = [taps for (point, _), taps in self._taps.items() if point == name]
        tables += [taps for (point, _), found in self._source_taps.items() if point == name for _, taps in found]
        return max((len(row.history) for taps in tables for row in taps.values()), default=1)

    @property
    def action_seconds(self) -> tuple[float, ...] | None:
        """Seconds of one step with each action, if they were measured."""
        return None if self.timing is None else self.timing.seconds

    @property
    def flops_ratio(self) -> float | None:
        """FLOPs of the full run over those of the plan; None where it does not say costs, or what some branches do."""
        return self._ratio(self.action_flops)

    @property
    def seconds_ratio(self) -> float | None:
        """The same of seconds, as `timing` has them."""
        return self._ratio(self.action_seconds)

    def _ratio(self, costs: Sequence[float] | None) -> float | None:
        tables = dict(self.schedule.tables)
        others = tables.pop(EVERY)
        if costs is None or (tables and others not in tables.values()):
            return None
        chosen = [*tables.values()] or [others]  # where one repeats a named one, all branches have names
        return costs[others[0]] * len(others) / (sum(costs[i] for table in chosen for i in table) / len(chosen))

    def __eq__(self, other: object) -> bool:
        """Equal fields; the cached properties hold arrays and do not count."""
        return isinstance(other, NetworkPlan) and self.model_dump() == other.model_dump()

    __hash__ = None  # type: ignore[assignment]
