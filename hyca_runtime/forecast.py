"""How the tensors of one point are forecast."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import permutations

import numpy as np
from pydantic import Field, model_validator

from hyca_runtime.errors import PlanError
from hyca_runtime.group import MAX_CHANNELS, DimensionGroup, SolverSpec, check_partition
from hyca_runtime.plan_part import PlanPart
from hyca_runtime.point import CachePoint
from hyca_runtime.schedule import EVERY, Schedule
from hyca_runtime.solvers import AdaptiveSolver, Aligned, ClosedFormSolver, Solver, solver_from_spec

MOST_WEIGHED = 1 << 26
"""Channels times forecast steps times branches; 60 blocks of two streams of 3072 channels, forecast on 40 steps of two
branches, are not half as many."""

GroupSolvers = tuple[tuple[np.ndarray, Solver], ...]
"""Channel indices and solver of each group."""


class Source(PlanPart):
    """What a forecast weighs beside the own past of its branch at its point; a constant where it names neither.

    Attributes:
        branch: the guidance branch whose past is weighed; None for the one that is forecast.
        point: the point whose past is weighed, by its name in the plan; None for the one that is forecast.
        live: whether its value on the very step counts as past: where that branch is called before, or, of another
            point in the very call that forecasts, where that is computed before.
        solver: the weights; they are added to those of the groups, and may differ by channel.
    """

    branch: str | None = None
    point: str | None = None
    live: bool = False
    solver: SolverSpec

    @model_validator(mode="after")
    def _check(self) -> Source:
        solver = solver_from_spec(self.solver)
        if isinstance(solver, AdaptiveSolver | Aligned):
            raise ValueError(f"sources: {solver.name!r} reads features, a source has weights of its own")  # noqa: TRY004
        if self.branch == EVERY:
            raise ValueError(f"sources: expected the name of a branch, or none for a constant, got {EVERY!r}")
        if self.is_constant and (self.live or solver.depth > 1):
            raise ValueError("sources: a constant has one weight, and is never live")
        return self

    @property
    def is_constant(self) -> bool:
        return self.branch is None and self.point is None

    def read_for(self, point: str, branch: str) -> tuple[str, str]:
        """The point and the branch whose past is weighed in forecasts of these."""
        return self.point or point, branch if self.branch is None else self.branch

    def is_own(self, branch: str) -> bool:
        """Whether it is of the branch that is forecast itself."""
        return self.branch in (None, branch)

    def reads_its_call(self, branch: str, stacked: int) -> bool:
        """Whether forecasts of a branch weigh what the very call has computed before.

        Args:
            stacked: branches that are forecast together.
        """
        in_call = self.is_own(branch) or branch == EVERY or stacked > 1
        return self.live and self.point is not None and in_call


class Forecast(PlanPart):
    """How the tensors of one point are forecast, or that others' forecasts weigh them.

    Attributes:
        at: the point.
        num_channels: feature dimensions there.
        groups: by guidance branch, or `EVERY`: partition of the channels, each group with its solver. None where no
            action forecasts the point.
        sources: by guidance branch, or `EVERY`: what is weighed beside its own past, on the plan's own steps.
        against: by guidance branch another one. What it remembers is the difference to that branch's newest feature
            then, and its forecasts are added to what that branch has now: its feature, or its own forecast.
        numel: numbers in one feature of one sample, all guidance branches together.
    """

    at: CachePoint
    num_channels: int = Field(ge=1, le=MAX_CHANNELS)
    groups: dict[str, tuple[DimensionGroup, ...]] = Field(default_factory=dict)
    sources: dict[str, tuple[Source, ...]] = Field(default_factory=dict)
    against: dict[str, str] = Field(default_factory=dict)
    numel: int | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _check(self) -> Forecast:
        if self.groups and EVERY not in self.groups:
            raise ValueError(f"groups: expected those of {EVERY!r}, the branches that are not named")
        for groups in self.groups.values():
            check_partition(groups, self.num_channels)
        for branch, sources in self.sources.items():
            if any(source.branch == branch and source.point is None for source in sources):
                raise ValueError(f"sources.{branch}: its own past is weighed by its groups")
        for branch, other in self.against.items():
            if EVERY in (branch, other) or other in self.against:
                raise ValueError(f"against.{branch}: expected a branch that is itself against none, got {other!r}")
        return self

    def groups_of(self, branch: str = EVERY) -> tuple[DimensionGroup, ...]:
        """The groups of one guidance branch."""
        return self.groups.get(branch, self.groups.get(EVERY, ()))

    def solvers(self, branch: str = EVERY) -> GroupSolvers:
        """The groups of a branch, ready for use."""
        return tuple((group.indices, solver_from_spec(group.solver)) for group in self.groups_of(branch))

    def check_readers(self, probed: bool, joint: bool) -> None:
        """Raises ValueError where solvers that read features cannot.

        Args:
            probed: whether a policy looks at what leading blocks make.
            joint: whether forecasts weigh more than the own past of a whole call.
        """
        for branch in self.groups:
            solvers = [solver for _, solver in self.solvers(branch)]
            if any(isinstance(s, Aligned) for s in solvers) and (len(solvers) > 1 or not probed):
                raise ValueError("groups: 'aligned' forecasts all channels, under a policy that probes")
            if joint and any(isinstance(s, AdaptiveSolver | Aligned) for s in solvers):
                raise ValueError("groups: solvers that read features weigh the own past of a whole call alone")

    def everywhere(self, source: Source) -> GroupSolvers:
        """The solver of a source, for all channels."""
        return ((np.arange(self.num_channels), solver_from_spec(source.solver)),)

    def fallbacks(self, branch: str = EVERY) -> GroupSolvers:
        """The groups of a branch with their closed forms, for times that are not the plan's own.

        Raises:
            PlanError: one names a fitted solver for that.
        """
        found = []
        for group in self.groups_of(branch):
            solver = solver_from_spec(group.closed_form)
            if not isinstance(solver, ClosedFormSolver):
                raise PlanError(f"group {group.name!r}: fallback {solver.name!r} is bound to the plan's own steps")
            found.append((group.indices, solver))
        return tuple(found)

    def free(self, branch: str = EVERY, on_steps: bool = True) -> GroupSolvers:
        """The groups of a branch with what forecasts from any past: their solvers where all can, else closed forms.

        Args:
            on_steps: whether all times are steps of the plan.
        """
        solvers = self.solvers(branch)
        return solvers if on_steps and all(s.for_any_past for _, s in solvers) else self.fallbacks(branch)

    @property
    def free_depth(self) -> int:
        """How many computed features are of use where runs have a past of their own."""
        ways = [(branch, on_steps) for branch in self.groups for on_steps in (True, False)]
        return max((solver.depth for way in ways for _, solver in self.free(*way)), default=1)


def _check_size(name: str, forecast: Forecast, schedule: Schedule) -> None:
    """Whether the rows of a point fit into memory, each of which has a few weights for every channel."""
    branches = {*schedule.tables, *forecast.groups}
    rows = sum(name in action.forecast for branch in branches for action in schedule.actions(branch))
    if rows * forecast.num_channels > MOST_WEIGHED:
        raise PlanError(
            f"points.{name}: forecasts {forecast.num_channels} channels on {rows} steps of {len(branches)} branches; "
            f"expected at most {MOST_WEIGHED} in all; forecast the trunk or the output, or fewer blocks"
        )


def check_points(points: Mapping[str, Forecast], schedule: Schedule, stacked: int) -> None:
    """Raises PlanError if points and the actions that forecast them do not fit.

    Args:
        points: by name.
        schedule: whose palette forecasts them.
        stacked: guidance branches that are forecast together, in one call.
    """
    palette, branches = schedule.palette, schedule.tables.keys() - {EVERY}
    used = {name for action in palette for name in action.forecast}
    if unknown := used - points.keys():
        raise PlanError(f"schedule.palette: forecasts {min(unknown)!r}, the points are {sorted(points)}")
    if "" in points:
        raise PlanError("points: a point has no name")
    for one, other in (pair for action in palette for pair in permutations(action.forecast, 2)):
        if points[one].at.stands_for(points[other].at):  # what is inside another never runs
            raise PlanError(f"schedule.palette: {one!r} and {other!r} are forecast together, one holds the other")
    for name, branch, source in _between(points):
        _check_source(points, name, branch, source, stacked)
    read = {source.point for _, _, source in _between(points)}
    for name, forecast in points.items():
        _check_size(name, forecast, schedule)
        if name not in used | read:
            raise PlanError(f"points.{name}: no action of the palette forecasts it, and no forecast weighs it")
        if name in used and forecast.at.kind == "leading":
            raise PlanError(f"points.{name}: '{forecast.at}' is weighed by forecasts, and never forecast itself")
        if name in used and not forecast.groups:
            raise PlanError(f"points.{name}.groups: expected those of {EVERY!r}, the branches that are not named")
        if name not in used and (forecast.groups or forecast.sources or forecast.against):
            raise PlanError(f"points.{name}: no action forecasts it, so it has neither groups nor sources")
        if forecast.against and stacked > 1:
            raise PlanError(f"points.{name}.against: branches of one call are told apart only where tables name them")
        if unknown := {*forecast.against, *forecast.against.values()} - branches:
            raise PlanError(
                f"points.{name}.against: expected branches that have a table in schedule.tables, {sorted(branches)}, "
                f"got {min(unknown)!r}; correct its name, or add its table"
            )


def _between(points: Mapping[str, Forecast]) -> Iterator[tuple[str, str, Source]]:
    """Sources that lie at other points, with the point and the branch that they are for."""
    for name, forecast in points.items():
        for branch, sources in forecast.sources.items():
            yield from ((name, branch, source) for source in sources if source.point is not None)


def _check_source(points: Mapping[str, Forecast], name: str, branch: str, source: Source, stacked: int) -> None:
    where, read = f"points.{name}.sources", str(source.point)
    if read not in points or read == name:
        others = sorted(points.keys() - {name})
        raise PlanError(f"{where}: expected another point of the plan, of {others}, got {read!r}")
    mine, theirs = points[name], points[read]
    if (mine.num_channels, mine.at.channel_axis) != (theirs.num_channels, theirs.at.channel_axis):
        raise PlanError(
            f"{where}: {read!r} has {theirs.num_channels} channels on axis {theirs.at.channel_axis}, {name!r} has "
            f"{mine.num_channels} on axis {mine.at.channel_axis}; features are added, so both must be equal"
        )
    if source.reads_its_call(branch, stacked) and not theirs.at.known_before(mine.at):
        raise PlanError(
            f"{where}: {read!r}, at '{theirs.at}', is not computed before '{mine.at}' in a call that forecasts it; "
            "live are 'leading' blocks of a forecast of 'trunk:residual', or of what is 'behind' as many or more"
        )
