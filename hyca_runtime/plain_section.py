"""Sections of plans without a search."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from hyca_runtime.fingerprint import config_digest
from hyca_runtime.forecast import Forecast
from hyca_runtime.group import DimensionGroup, encode_channels
from hyca_runtime.network_plan import NetworkPlan
from hyca_runtime.plan_facts import ModelFingerprint, TimeGrid
from hyca_runtime.point import CachePoint
from hyca_runtime.schedule import EVERY, Schedule
from hyca_runtime.solvers import ClosedFormSolver, Newton


def plain_section(
    module: nn.Module,
    points: Mapping[str, tuple[CachePoint, int]],
    timesteps: Sequence[float],
    scheduler_timesteps: Sequence[float] | None,
    schedule: Schedule,
    component: str = "transformer",
    solver: ClosedFormSolver | None = None,
    sampler: str = "any",
) -> NetworkPlan:
    """One closed form for every channel, on the step axis.

    Args:
        points: with their numbers of channels, by the names that the schedule uses.
        solver: linear extrapolation by default.
        sampler: the scheduler's class, where the plan is for no other.
    """
    forecasts, spec = {}, (solver or Newton(1)).spec()
    for name, (point, channels) in points.items():
        everything = DimensionGroup(name="all", channels=encode_channels(range(channels)), solver=spec)
        forecasts[name] = Forecast(at=point, num_channels=channels, groups={EVERY: (everything,)})
    return NetworkPlan(
        component=component,
        model=ModelFingerprint(transformer=type(module).__name__, config_digest=config_digest(module)),
        grid=TimeGrid(
            scheduler=sampler,
            timesteps=tuple(timesteps),
            scheduler_timesteps=tuple(scheduler_timesteps) if scheduler_timesteps else None,
            axis="step",
            axis_times=tuple(float(s) for s in range(len(timesteps))),
        ),
        points=forecasts,
        schedule=schedule,
    )
