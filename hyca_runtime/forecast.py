"""How the tensors of one point are forecast."""

from __future__ import annotations

import numpy as np
from pydantic import Field, model_validator

from hyca_runtime.errors import PlanError
from hyca_runtime.group import MAX_CHANNELS, DimensionGroup, SolverSpec, check_partition
from hyca_runtime.plan_part import PlanPart
from hyca_runtime.point import CachePoint
from hyca_runtime.schedule import EVERY
from hyca_runtime.solvers import AdaptiveSolver, Aligned, ClosedFormSolver, Solver, solver_from_spec

GroupSolvers = tuple[tuple[np.ndarray, Solver], ...]
"""Channel indices and solver of each group."""


class Source(PlanPart):
    """What a forecast weighs beside the own past of its branch.

    Attributes:
        branch: the guidance branch whose past at the same point is weighed; None for a constant.
        live: whether its value on the very step counts as past, where that branch is called before.
        solver: the weights; they are added to those of the groups, and may differ by channel.
    """

    branch: str | None = None
    live: bool = False
    solver: SolverSpec

    @model_validator(mode="after")
    def _check(self) -> Source:
        solver = solver_from_spec(self.solver)
        if isinstance(solver, AdaptiveSolver | Aligned):
            raise ValueError(f"sources: {solver.name!r} reads features, a source has weights of its own")  # noqa: TRY004
        if self.branch == EVERY:
            raise ValueError(f"sources: expected the name of a branch, or none for a constant, got {EVERY!r}")
        if self.branch is None and (self.live or solver.depth > 1):
            raise ValueError("sources: a constant has one weight, and is never live")
        return self


class Forecast(PlanPart):
    """How the tensors of one point are forecast.

    Attributes:
        at: the point.
        num_channels: feature dimensions there.
        groups: by guidance branch, or `EVERY`: partition of the channels, each group with its solver.
        sources: by guidance branch, or `EVERY`: what is weighed beside its own past, on the plan's own steps.
        numel: numbers in one feature of one sample, all guidance branches together.
    """

    at: CachePoint
    num_channels: int = Field(ge=1, le=MAX_CHANNELS)
    groups: dict[str, tuple[DimensionGroup, ...]]
    sources: dict[str, tuple[Source, ...]] = Field(default_factory=dict)
    numel: int | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _check(self) -> Forecast:
        if EVERY not in self.groups:
            raise ValueError(f"groups: expected those of {EVERY!r}, the branches that are not named")
        for groups in self.groups.values():
            check_partition(groups, self.num_channels)
        for branch, sources in self.sources.items():
            if any(source.branch == branch for source in sources):
                raise ValueError(f"sources.{branch}: its own past is weighed by its groups")
        return self

    def groups_of(self, branch: str = EVERY) -> tuple[DimensionGroup, ...]:
        """The groups of one guidance branch."""
        return self.groups.get(branch, self.groups[EVERY])

    def solvers(self, branch: str = EVERY) -> GroupSolvers:
        """The groups of a branch, ready for use."""
        return tuple((group.indices, solver_from_spec(group.solver)) for group in self.groups_of(branch))

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

    @property
    def fallback_depth(self) -> int:
        """How many computed features the closed forms can use."""
        return max(solver.depth for branch in self.groups for _, solver in self.fallbacks(branch))
