"""What a published step cache is, but its threshold, which a budget decides."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

from torch import nn

from hyca_calib.search.problem import Problem
from hyca_calib.search.watched_run import WatchedCall
from hyca_runtime.forecast import Forecast
from hyca_runtime.group import DimensionGroup, encode_channels
from hyca_runtime.point import CachePoint, parse_point
from hyca_runtime.policies import Policy
from hyca_runtime.schedule import COMPUTE, EVERY, Action
from hyca_runtime.solvers import ClosedFormSolver, Hold, Solver, solver_from_spec

STACK = "stack"
"""The name of the point in plans."""
ALL_BLOCKS = parse_point("trunk:residual")
"""The tokens behind the last block less those before the first."""

FIT_SAMPLES = 10
"""Full runs from which numbers of a network are fitted."""

Progress = Callable[[float], None]

Groups = Mapping[str, tuple[DimensionGroup, ...]]
"""How a point is forecast, by guidance branch."""


@dataclass(frozen=True)
class Rule(ABC):
    """The settings of a published step cache.

    Attributes:
        preset: its name.
        probes: after how many blocks it decides; 0 for before them.
        groups: what forecasts its points in place of `solver`, if that was fitted; by name, as `Forecast.groups`.
        first: the threshold that is tried first.
    """

    preset: ClassVar[str]
    first: ClassVar[float] = 0.1
    groups: Mapping[str, Groups] = field(default_factory=dict, kw_only=True)

    @property
    def probes(self) -> int:
        return 1

    @property
    def looks(self) -> bool:
        """Whether it decides by what a run shows."""
        return self.probes > 0

    @property
    def by_sample(self) -> bool:
        """Whether samples decide differently."""
        return self.policy(1.0).by_sample

    @property
    def point(self) -> CachePoint:
        """What is forecast."""
        return ALL_BLOCKS

    @property
    def points(self) -> Mapping[str, CachePoint]:
        """All that is forecast, by name."""
        return {STACK: self.point}

    @property
    def actions(self) -> tuple[Action, ...]:
        """What steps do that are not computed; the last costs least."""
        return (Action(forecast=(STACK,)),)

    @property
    def palette(self) -> tuple[Action, ...]:
        return (COMPUTE, *self.actions)

    @property
    def solver(self) -> Solver:
        """What it is forecast by."""
        return Hold()

    @property
    def forecast_by(self) -> str:
        """The name of what forecasts."""
        return next((group.solver.name for group in self._fitted), self.solver.name)

    @property
    def forecast_digest(self) -> str:
        """Tells how it forecasts, and where, from other ways."""
        told = [spec.model_dump_json() for spec in (*self._fitted, self.solver.spec())]
        told += [f"{name} {point}" for name, point in self.points.items()]
        return hashlib.sha256("".join(told).encode()).hexdigest()[:12]

    @property
    def depth(self) -> int:
        """How many computed features a forecast weighs."""
        return max((solver_from_spec(group.solver).depth for group in self._fitted), default=self.solver.depth)

    @property
    def _fitted(self) -> tuple[DimensionGroup, ...]:
        return tuple(group for of in self.groups.values() for groups in of.values() for group in groups)

    @property
    def branches(self) -> tuple[str, ...]:
        """Guidance branches that may be decided about otherwise on equal evidence."""
        return ("",)

    def called(self, branch: str, num_steps: int) -> Sequence[int]:
        """The steps on which a guidance branch is called."""
        del branch
        return range(num_steps)

    @property
    def lead(self) -> str | None:
        """The guidance branch that is computed on some steps on which the `others` are not."""
        return None

    @property
    def others(self) -> tuple[str, ...]:
        return ()

    @property
    def spare(self) -> bool:
        """Whether it is tried only if no rule before it meets the budget."""
        return False

    @property
    def notes(self) -> tuple[str, ...]:
        """What users are to know of how the rule suits the network."""
        return ()

    @abstractmethod
    def policy(self, threshold: float) -> Policy:
        """The policy with a threshold; one of 0 computes every step."""

    def fitted(self, pipe: Any, problem: Problem, folder: Path, on_progress: Progress) -> Self:
        """The rule with what must be known of a network, from full runs of the fit split.

        Args:
            folder: where the numbers of each run are kept; a second call goes on from them.
        """
        del pipe, problem, folder, on_progress
        return self

    def fitting(self, problem: Problem, network: nn.Module, call: WatchedCall) -> Self:
        """The rule with what a network tells, and a call of it.

        Raises:
            AttachError: the rule has no sense for such a network.
        """
        del problem, network, call
        return self

    def easier(self) -> tuple[Self, ...]:
        """The rule, then with ever fewer steps computed whatever happens: high budgets leave little room for them."""
        return (self,)

    def forecast(self, channels: int, numel: int | None = None, name: str = STACK) -> Forecast:
        """What is forecast at a point, of so many channels and numbers, and how."""
        solver, whole = self.solver, encode_channels(range(channels))
        fallback = None if isinstance(solver, ClosedFormSolver) else Hold().spec()
        everything = DimensionGroup(name="all", channels=whole, solver=solver.spec(), fallback=fallback)
        groups = self.groups.get(name, {EVERY: (everything,)})
        return Forecast(at=self.points[name], num_channels=channels, groups=dict(groups), numel=numel)
