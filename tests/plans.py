"""Plans for tests, without a search."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from diffusers import FluxTransformer2DModel

from hyca_runtime.fingerprint import config_digest
from hyca_runtime.forecast import Forecast
from hyca_runtime.group import DimensionGroup, encode_channels
from hyca_runtime.network_plan import ModelFingerprint, NetworkPlan, TimeGrid
from hyca_runtime.plan import Plan
from hyca_runtime.point import parse_point
from hyca_runtime.schedule import EVERY, FEATURE, Schedule
from hyca_runtime.solvers import Hold, Newton, Solver

STEPS = 12


def make_plan(
    module: FluxTransformer2DModel,
    computed: Sequence[int] = (0, 1, 4, 8),
    solvers: Sequence[Solver] = (Newton(1), Hold()),
    steps: int = STEPS,
    point: str = "trunk",
) -> Plan:
    """A plan for a FLUX module; the channels are divided evenly among `solvers`."""
    channels = module.config["in_channels"] if point == "output" else module.inner_dim
    parts = np.array_split(np.arange(channels), len(solvers))
    times = tuple(float(t) for t in np.linspace(1.0, 1.0 / steps, steps, dtype=np.float32))
    groups = tuple(
        DimensionGroup(name=f"g{i}", channels=encode_channels(part.tolist()), solver=solver.spec())
        for i, (part, solver) in enumerate(zip(parts, solvers, strict=True))
    )
    section = NetworkPlan(
        model=ModelFingerprint(transformer=type(module).__name__, config_digest=config_digest(module)),
        grid=TimeGrid(
            scheduler="FlowMatchEulerDiscreteScheduler",
            timesteps=times,
            axis="sigma",
            axis_times=times,
            scheduler_timesteps=tuple(1000 * t for t in times),
        ),
        points={FEATURE: Forecast(at=parse_point(point), num_channels=channels, groups={EVERY: groups})},
        schedule=Schedule.from_steps(steps, computed),
        action_flops=(1000.0, 10.0),
    )
    return Plan(name="test", sections=(section,))
