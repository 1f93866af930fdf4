"""The parts of a plan that belong to one network and one time grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from hyca_runtime.errors import HycaError, PlanError
from hyca_runtime.group import DimensionGroup, check_partition
from hyca_runtime.point import CachePoint
from hyca_runtime.schedule import Schedule
from hyca_runtime.solvers import ClosedFormSolver, Instant, Solver, TapTable, mixed_rows, solver_from_spec, tap_table


class Part(BaseModel):
    """A strict, frozen piece of a plan."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)


class ModelFingerprint(Part):
    """What a model must look like for the plan to fit.

    Attributes:
        transformer: class name of the network.
        config_digest: SHA-256 of its configuration.
        num_channels: feature dimensions at the cache point.
    """

    transformer: str
    config_digest: str
    num_channels: int = Field(ge=1)


class TimeGrid(Part):
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


class Cost(Part):
    """Measured compute of one run of the network, without text encoder and decoder.

    Attributes:
        feature_numel: numbers in one feature of one sample, all guidance branches together.
    """

    full_step_flops: float = Field(gt=0)
    predicted_step_flops: float = Field(ge=0)
    flops_ratio: float = Field(gt=0)
    feature_numel: int | None = Field(default=None, gt=0)


class Quality(Part):
    """Agreement with the full run, measured by rollouts on one split: PSNR of the final latents, before a decoder."""

    split: Literal["fit", "select", "test"]
    num_samples: int
    psnr_db: float


class NetworkPlan(Part):
    """The part of a plan for one network and one time grid: where, when and how features are predicted.

    Attributes:
        component: name of the network in its pipeline; Wan 2.2 has a ``transformer`` and a ``transformer_2``.
        groups: partition of the feature dimensions, each with its solver.
    """

    component: str = "transformer"
    model: ModelFingerprint
    sampler: TimeGrid
    point: CachePoint
    schedule: Schedule
    groups: tuple[DimensionGroup, ...]
    cost: Cost | None = None
    quality: Quality | None = None

    @model_validator(mode="after")
    def _check(self) -> NetworkPlan:
        steps = self.schedule.num_steps
        grids = {"timesteps": self.sampler.timesteps, "axis_times": self.sampler.axis_times}
        if self.sampler.scheduler_timesteps is not None:
            grids["scheduler_timesteps"] = self.sampler.scheduler_timesteps
        for label, values in grids.items():
            if len(values) != steps:
                raise ValueError(f"sampler.{label}: expected {steps} values, one per step, got {len(values)}")
        if len(set(self.sampler.axis_times)) != steps:
            raise ValueError("sampler.axis_times: two steps share one time")
        check_partition(self.groups, self.model.num_channels)
        try:
            _ = self.taps, self.fallbacks  # every row must exist and fit its group
        except HycaError as error:
            raise ValueError(str(error)) from error
        return self

    @cached_property
    def solvers(self) -> tuple[tuple[np.ndarray, Solver], ...]:
        """Channel indices and solver of each group."""
        return tuple((group.indices, solver_from_spec(group.solver)) for group in self.groups)

    @cached_property
    def fallbacks(self) -> tuple[tuple[np.ndarray, Solver], ...]:
        """Channel indices and closed form of each group, for times that are not the section's own."""
        found = []
        for group in self.groups:
            solver = solver_from_spec(group.closed_form)
            if not isinstance(solver, ClosedFormSolver):
                raise PlanError(f"group {group.name!r}: fallback {solver.name!r} is bound to the plan's own steps")
            found.append((group.indices, solver))
        return tuple(found)

    @cached_property
    def taps(self) -> Mapping[int, TapTable]:
        """The weights of each predicted step, over the history its schedule gives it."""
        return tap_table(self.schedule, self.sampler.axis_times, self.solvers, self.model.num_channels)

    def weights_at(self, past: Sequence[float], position: float) -> np.ndarray:
        """Weights ``(tap, channel)`` of the fallback solvers at any positions, newest first.

        Args:
            past: where features were computed, in steps of this section, perhaps between two.
            position: the one to predict.
        """
        past = past[: self.fallback_depth]
        steps = np.arange(self.schedule.num_steps)
        times = np.interp([position, *past], steps, self.sampler.axis_times)
        instants = [Instant(round(p), float(t)) for p, t in zip(past, times[1:], strict=True)]
        return mixed_rows(instants, Instant(round(position), float(times[0])), self.fallbacks, self.model.num_channels)

    def __eq__(self, other: object) -> bool:
        """Equal fields; the cached properties hold arrays and do not count."""
        return isinstance(other, NetworkPlan) and self.model_dump() == other.model_dump()

    __hash__ = None  # type: ignore[assignment]

    @property
    def depth(self) -> int:
        """How many computed features a stream must remember."""
        return max((len(taps.history) for taps in self.taps.values()), default=1)

    @property
    def fallback_depth(self) -> int:
        """How many the fallback solvers can use."""
        return max(solver.depth for _, solver in self.fallbacks)
