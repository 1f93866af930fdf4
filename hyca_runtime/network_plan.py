"""The parts of a plan that belong to one network and one time grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import permutations
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from hyca_runtime.errors import HycaError, PlanError
from hyca_runtime.forecast import Forecast
from hyca_runtime.plan_part import PlanPart
from hyca_runtime.point import CachePoint
from hyca_runtime.policies import Policy, PolicySpec, ProbingPolicy, Scheduled, policy_from_spec
from hyca_runtime.schedule import EVERY, Action, Schedule
from hyca_runtime.solvers import Aligned, Instant, TapTable, mixed_rows, tap_table


class ModelFingerprint(PlanPart):
    """What a model must look like for the plan to fit.

    Attributes:
        transformer: class name of the network.
        config_digest: SHA-256 of its configuration.
    """

    transformer: str
    config_digest: str


class TimeGrid(PlanPart):
    """The time grid the plan was made for.

    Attributes:
        scheduler: class name, for people.
        timesteps: what the network is called with on each step, in its own unit.
        axis: the time axis of the solvers: "step", "sigma" or "log_snr".
        axis_times: position of each step on that axis.
        scheduler_timesteps: the scheduler's own timesteps on those steps, where it says them.
    """

    scheduler: str
    timesteps: tuple[float, ...]
    scheduler_timesteps: tuple[float, ...] | None = None
    axis: str
    axis_times: tuple[float, ...]

    def is_at(self, step: int, timestep: float, rounding: float) -> bool:
        """Whether the network is called with `timestep`, known up to relative `rounding`, on `step`."""
        if step >= len(self.timesteps):
            return False
        return abs(self.timesteps[step] - timestep) <= rounding * max(abs(self.timesteps[step]), 1e-6)


class Quality(PlanPart):
    """Agreement with the full run, measured by rollouts on one split: PSNR of the final latents, before a decoder."""

    split: Literal["fit", "select", "test"]
    num_samples: int
    psnr_db: float


class NetworkPlan(PlanPart):
    """The part of a plan for one network and one time grid: where, when and how features are forecast.

    Attributes:
        component: name of the network in its pipeline; Wan 2.2 has a ``transformer`` and a ``transformer_2``.
        points: what can be forecast, by the names that the schedule's actions use.
        policy: what decides between the actions at run time; without one the schedule does.
        action_flops: FLOPs of one step with each action of the palette, as counted, all guidance branches together,
            without text encoder and decoder.
    """

    component: str = "transformer"
    model: ModelFingerprint
    grid: TimeGrid
    points: dict[str, Forecast] = Field(min_length=1)
    schedule: Schedule
    policy: PolicySpec | None = None
    action_flops: tuple[float, ...] | None = None
    quality: Quality | None = None

    @model_validator(mode="after")
    def _check(self) -> NetworkPlan:
        steps = self.schedule.num_steps
        grids = {"timesteps": self.grid.timesteps, "axis_times": self.grid.axis_times}
        if self.grid.scheduler_timesteps is not None:
            grids["scheduler_timesteps"] = self.grid.scheduler_timesteps
        for label, values in grids.items():
            if len(values) != steps:
                raise ValueError(f"grid.{label}: expected {steps} values, one per step, got {len(values)}")
        if len(set(self.grid.axis_times)) != steps:
            raise ValueError("grid.axis_times: two steps share one time")
        used = {name for action in self.schedule.palette for name in action.forecast}
        if unknown := used - self.points.keys():
            raise ValueError(f"schedule.palette: forecasts {min(unknown)!r}, the points are {sorted(self.points)}")
        if idle := self.points.keys() - used:
            raise ValueError(f"points.{min(idle)}: no action of the palette forecasts it")
        if "" in self.points:
            raise ValueError("points: a point has no name")
        for action in self.schedule.palette:
            self._check_action(action)
        if self.action_flops is not None:
            self._check_flops(self.action_flops)
        try:
            for forecast in self.points.values():  # every row must exist and fit its group
                _ = self._taps, forecast.fallback_depth
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

    def _check_flops(self, flops: Sequence[float]) -> None:
        palette = self.schedule.palette
        if len(flops) != len(palette):
            raise ValueError(f"action_flops: expected {len(palette)} numbers, one per action, got {len(flops)}")
        if any(cost < 0 or (action.computes and cost == 0) for cost, action in zip(flops, palette, strict=True)):
            raise ValueError(f"action_flops: expected positive numbers, got {list(flops)}")

    @cached_property
    def decider(self) -> Policy:
        """What decides between the actions."""
        return Scheduled() if self.policy is None else policy_from_spec(self.policy)

    @property
    def probes(self) -> int:
        """After how many blocks of a call decisions fall; 0 if they fall before it."""
        return self.decider.blocks if isinstance(self.decider, ProbingPolicy) else 0

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
        """Whether a call with this action computes the tensors of a point as the full run would."""
        return not any(self.points[other].at.stands_for(self.points[name].at) for other in action.forecast)

    @cached_property
    def _taps(self) -> Mapping[tuple[str, str], Mapping[int, TapTable]]:
        branches = {*self.schedule.tables, *(branch for point in self.points.values() for branch in point.groups)}
        return {(name, branch): self._taps_of(name, branch) for name in self.points for branch in branches}

    def _taps_of(self, name: str, branch: str) -> Mapping[int, TapTable]:
        actions, point = self.schedule.actions(branch), self.points[name]
        return tap_table(
            kept=[step for step, action in enumerate(actions) if self.keeps(action, name)],
            targets=[step for step, action in enumerate(actions) if name in action.forecast],
            times=self.grid.axis_times,
            groups=point.solvers(branch),
            num_channels=point.num_channels,
        )

    def taps(self, name: str | None = None, branch: str = EVERY) -> Mapping[int, TapTable]:
        """The weights of each step on which a point is forecast, over the history that the schedule gives it.

        Args:
            name: of the point; may be left out if there is only one.
        """
        name = name or self.only
        return self._taps.get((name, branch), self._taps[name, EVERY])

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
        tables = (taps for (point, _), taps in self._taps.items() if point == name)
        return max((len(row.history) for taps in tables for row in taps.values()), default=1)

    @property
    def flops_ratio(self) -> float | None:
        """FLOPs of the full run over those of the plan; None where it does not say its costs."""
        if self.action_flops is None:
            return None
        full = self.action_flops[self.schedule.tables[EVERY][0]]
        return full * self.schedule.num_steps / sum(self.action_flops[i] for i in self.schedule.tables[EVERY])

    def __eq__(self, other: object) -> bool:
        """Equal fields; the cached properties hold arrays and do not count."""
        return isinstance(other, NetworkPlan) and self.model_dump() == other.model_dump()

    __hash__ = None  # type: ignore[assignment]
