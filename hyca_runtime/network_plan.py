"""The parts of a plan that belong to one network and one time grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np
from pydantic import Field, model_validator

from hyca_runtime.chunking import Chunking
from hyca_runtime.errors import HycaError, PlanError
from hyca_runtime.forecast import Forecast, GroupSolvers, Source, check_points
from hyca_runtime.plan_facts import Certificate, ModelFingerprint, Quality, TimeGrid, Timing, check_costs
from hyca_runtime.plan_part import PlanPart
from hyca_runtime.point import CachePoint
from hyca_runtime.policies import Policy, PolicySpec, ProbingPolicy, Scheduled, policy_from_spec
from hyca_runtime.schedule import EVERY, Action, Schedule
from hyca_runtime.solvers import TapTable, rows_at, tap_table
from hyca_runtime.stacked import MAX_STACKED, stacked_labels
from hyca_runtime.variant import MAX_VARIANTS, VariantSpec, check_variants

SourceTaps = tuple[tuple[Source, Mapping[int, TapTable]], ...]
"""What is weighed beside the own past of a branch, with the weights of each step on which it is forecast."""


class NetworkPlan(PlanPart):
    """The part of a plan for one network and one time grid: where, when and how features are forecast.

    Attributes:
        component: name of the network in its pipeline; Wan 2.2 has a ``transformer`` and a ``transformer_2``.
        points: what can be forecast, by the names that the schedule's actions use.
        policy: what decides between the actions at run time; without one the schedule does.
        stacked: guidance branches that one call holds along its batch; those of more than one are named by
            `stacked_labels`. Where tables name some, each runs by its own.
        chunks, from_chunk: how calls hold a long video in chunks, if they do; the first that this is for, None for 0.
        variants: versions of the network's weights that the schedule's actions compute with, by name.
        action_flops, action_bits: FLOPs and bit operations of one step with each action of the palette, as counted, all
            guidance branches together, without text encoder and decoder.
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
    chunks: Chunking | None = None
    from_chunk: int | None = Field(default=None, ge=1)
    variants: dict[str, VariantSpec] | None = Field(default=None, max_length=MAX_VARIANTS)
    action_flops: tuple[float, ...] | None = None
    action_bits: tuple[float, ...] | None = None
    timing: Timing | None = None
    quality: Quality | None = None
    certificate: Certificate | None = None

    @model_validator(mode="after")
    def _check(self) -> NetworkPlan:
        self.grid.check(self.schedule.num_steps)
        computes = [action.computes for action in self.schedule.palette]
        check_costs("action_flops", self.action_flops, computes)
        check_costs("action_bits", self.action_bits, computes)
        check_costs("timing.seconds", self.action_seconds, computes)
        check_variants(self.variants or {}, self.schedule.palette, self.policy is not None)
        try:
            check_points(self.points, self.schedule, self.held)
            _ = self._taps, self._source_taps, [of.free_depth for of in self.points.values()]  # every row must exist
            self._check_probe()
            if self.chunks is not None:
                self.chunks.check(self.held == self.stacked, max(self.probes, *self.leads.values()), self.places)
        except HycaError as error:
            raise ValueError(str(error)) from error
        return self

    def _check_probe(self) -> None:
        """A policy decides about its own points, and one that looks at what blocks make about those alone."""
        self.decider.check_points({name: str(at) for name, at in self.places.items()}, self.schedule)
        if self.probes and self.held < self.stacked:
            raise ValueError(f"policy: {self.decider.name!r} decides for a whole call, not for branches that share it")
        for forecast in self.points.values():
            forecast.check_readers(probed=self.probes > 0 and len(self.points) == 1, joint=self.is_joint)

    @cached_property
    def decider(self) -> Policy:
        """What decides between the actions."""
        return Scheduled() if self.policy is None else policy_from_spec(self.policy)

    @property
    def probes(self) -> int:
        """After how many blocks of a call decisions fall; 0 if they fall before it."""
        return self.decider.blocks if isinstance(self.decider, ProbingPolicy) else 0

    @cached_property
    def held(self) -> int:
        """Guidance branches of a call that are remembered together: all, or one where some have their own tables."""
        own = {table.rpartition(" ")[2] for table in self.schedule.tables}
        return self.stacked if own.isdisjoint(stacked_labels("", self.stacked)) else 1

    @property
    def is_joint(self) -> bool:
        """Whether a forecast weighs more than one feature tensor's past, or parts of a call each in their own way."""
        return self.stacked > 1 or any(point.sources or point.against for point in self.points.values())

    @property
    def branches(self) -> frozenset[str]:
        """The guidance branches that are named."""
        points = [{*of.groups, *of.sources, *of.against, *of.against.values()} for of in self.points.values()]
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

    @cached_property
    def leads(self) -> Mapping[Action, int]:
        """After how many blocks of a call each action makes its forecast, 0 where that is done before it begins."""
        return {a: max((self._leads(name) for name in a.forecast), default=0) for a in self.schedule.palette}

    def _leads(self, name: str) -> int:
        forecast, points = self.points[name], self.points.values()
        if forecast.at.kind == "behind" and any(point.at.known_before(forecast.at) for point in points):
            return forecast.at.leading
        named = ((branch, source) for branch, sources in forecast.sources.items() for source in sources)
        weighed = [str(source.point) for branch, source in named if source.reads_its_call(branch, self.held)]
        return max((self.points[other].at.leading for other in weighed), default=self.probes)

    def keeps(self, action: Action, name: str) -> bool:
        """Whether a call with this action computes the tensors of a point: whether none of what they are made of is
        forecast."""
        at = self.points[name].at
        if at.kind == "leading" and at.leading <= self.leads.get(action, 0):
            return True
        return not any(self.points[other].at.is_part_of(at) for other in action.forecast)

    @cached_property
    def _taps(self) -> Mapping[tuple[str, str], Mapping[int, TapTable]]:
        branches = {*self.schedule.tables, *(branch for point in self.points.values() for branch in point.groups)}
        return {
            (name, branch): self._tabulated(name, branch, point.solvers(branch))
            for name, point in self.points.items()
            if point.groups
            for branch in branches
        }

    @cached_property
    def _source_taps(self) -> Mapping[tuple[str, str], SourceTaps]:
        found = dict[tuple[str, str], SourceTaps]()
        for name, point in self.points.items():
            for branch in {*self.schedule.tables, *point.sources} if point.sources else ():
                found[name, branch] = tuple(
                    (source, self._tabulated(name, branch, point.everywhere(source), source))
                    for source in point.sources.get(branch, point.sources.get(EVERY, ()))
                )
        return found

    def _tabulated(
        self, name: str, branch: str, groups: GroupSolvers, source: Source | None = None
    ) -> Mapping[int, TapTable]:
        """Weights by which a branch is forecast at a point, from its own past there or from a source."""
        kept = self._kept(name, branch) if source is None else self._kept(*source.read_for(name, branch))
        targets = [step for step, action in enumerate(self.schedule.actions(branch)) if name in action.forecast]
        live = source is not None and source.live
        return tap_table(kept, targets, self.grid.axis_times, groups, self.points[name].num_channels, live)

    def _kept(self, name: str, branch: str) -> list[int]:
        """The steps on which a branch computes a point."""
        return [step for step, action in enumerate(self.schedule.actions(branch)) if self.keeps(action, name)]

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
        """Weights ``(tap, channel)`` of a point for a past that need not be the schedule's, newest first.

        Args:
            past: where features were computed, in steps of this section, perhaps between two.
            position: the one to predict.
        """
        point = self.points[name or self.only]
        solvers = point.free(branch, all(float(p).is_integer() for p in (position, *past)))
        return rows_at(past, position, self.grid.axis_times, solvers, point.num_channels)

    def depth(self, name: str | None = None) -> int:
        """How many computed features of a point a stream must remember."""
        name = name or self.only
        sizes = [len(row.history) for (of, _), taps in self._taps.items() if of == name for row in taps.values()]
        for (of, branch), found in self._source_taps.items():
            for source, taps in found:
                read = source.read_for(of, branch)
                here = frozenset() if source.live else frozenset(self._kept(*read))  # newer than what is weighed
                sizes += [len(row.history) + (step in here) for step, row in taps.items() if read[0] == name]
        return max(sizes, default=1)

    @property
    def action_seconds(self) -> tuple[float, ...] | None:
        """Seconds of one step with each action, if they were measured."""
        return None if self.timing is None else self.timing.seconds

    @property
    def flops_ratio(self) -> float | None:
        """FLOPs of the full run over those of the plan; None where it does not say costs, or what some branches do."""
        return None if self.action_flops is None else self.schedule.cost_ratio(self.action_flops)

    @property
    def bits_ratio(self) -> float | None:
        """The same of bit operations."""
        return None if self.action_bits is None else self.schedule.cost_ratio(self.action_bits)

    @property
    def seconds_ratio(self) -> float | None:
        """The same of seconds, as `timing` has them."""
        return None if self.action_seconds is None else self.schedule.cost_ratio(self.action_seconds)

    def __eq__(self, other: object) -> bool:
        """Equal fields; the cached properties hold arrays and do not count."""
        return isinstance(other, NetworkPlan) and self.model_dump() == other.model_dump()

    __hash__ = None  # type: ignore[assignment]
