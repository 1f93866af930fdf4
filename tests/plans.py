"""Plans for tests, without a search."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from diffusers import FluxTransformer2DModel

from hyca_runtime.fingerprint import config_digest
from hyca_runtime.forecast import Forecast, Source
from hyca_runtime.group import DimensionGroup, SolverSpec, encode_channels
from hyca_runtime.network_plan import NetworkPlan
from hyca_runtime.plan import Plan
from hyca_runtime.plan_facts import ModelFingerprint, TimeGrid
from hyca_runtime.point import parse_point
from hyca_runtime.policies import MixedGranularity, ProbedChange
from hyca_runtime.schedule import COMPUTE, EVERY, FEATURE, Action, Schedule
from hyca_runtime.solvers import Aligned, Fitted, Hold, Newton, Solver

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


def changed(plan: Plan, **fields: Any) -> Plan:
    """The plan with other fields in its only section, checked again."""
    section = {name: getattr(plan.section, name) for name in NetworkPlan.model_fields}
    return Plan(name=plan.name, sections=(NetworkPlan(**section | fields),))


def alike(at: str, channels: int, solver: Solver) -> Forecast:
    """One solver for all channels of a point."""
    group = DimensionGroup(name="all", channels=encode_channels(range(channels)), solver=solver.spec())
    return Forecast(at=parse_point(at), num_channels=channels, groups={EVERY: (group,)})


def layered_plan(module: FluxTransformer2DModel) -> Plan:
    """Attention and MLPs of a FLUX module pause on steps of their own, for the branch "uncond" on others."""
    doubles, singles = len(module.transformer_blocks), len(module.single_transformer_blocks)
    points = {
        "attention": alike("attention", (2 * doubles + singles) * module.inner_dim, Newton(1)),
        "mlp": alike("mlp", 2 * doubles * module.inner_dim, Hold()),
    }
    both = ("attention", "mlp")
    palette = (COMPUTE, Action(forecast=both[:1]), Action(forecast=both[1:]), Action(forecast=both))
    tables: dict[str, tuple[int, ...]] = {
        EVERY: (0, 0, 1, 2, 0, 3, 1, 2, 0, 3, 3, 1),
        "uncond": (0, 0, 3, 3, 0, 3, 2, 3, 0, 3, 3, 2),
    }
    return changed(
        make_plan(module), points=points, schedule=Schedule(palette=palette, tables=tables), action_flops=None
    )


def probing_plan(module: FluxTransformer2DModel) -> Plan:
    """The first block decides in each call whether the others run."""
    points = {FEATURE: alike("trunk:residual", module.inner_dim, Aligned())}
    return changed(make_plan(module), points=points, policy=ProbedChange(0.2).spec(max_computed=8))


def live_plan(module: FluxTransformer2DModel) -> Plan:
    """The first block runs on every step; all blocks together are forecast from what it adds there, too."""
    plan = make_plan(module)
    steps, channels = plan.section.schedule.predicted_steps, module.inner_dim
    weights = Fitted(steps, np.random.default_rng(0).normal(0, 0.1, (len(steps), 2, channels))).spec()
    sources = {EVERY: (Source(point="probe", live=True, solver=weights),)}
    forecast = alike("trunk:residual", channels, Newton(1)).model_copy(update={"sources": sources})
    probe = Forecast(at=parse_point("leading:1"), num_channels=channels)
    return changed(plan, points={FEATURE: forecast, "probe": probe})


def parted_plan(module: FluxTransformer2DModel) -> Plan:
    """Each call holds two guidance branches, computed on steps of their own."""
    plan = make_plan(module)
    table = plan.section.schedule.tables[EVERY]
    tables = {EVERY: table, "1/2": (0, *(0 if step % 2 else action for step, action in enumerate(table[1:])))}
    return changed(plan, stacked=2, schedule=Schedule(palette=plan.section.schedule.palette, tables=tables))


def joint_plan(module: FluxTransformer2DModel) -> Plan:
    """The branches "cond" and "uncond" are forecast from each other's past, too, the latter also from a live value."""
    plan = make_plan(module, solvers=(Newton(1),))
    steps, forecast = plan.section.schedule.predicted_steps, plan.section.forecast
    generator = np.random.default_rng(0)

    def weights(taps: int) -> SolverSpec:
        return Fitted(steps, generator.normal(0, 0.1, (len(steps), taps, forecast.num_channels))).spec()

    constant = Source(solver=weights(1))
    sources = {
        "cond": (Source(branch="uncond", solver=weights(2)), constant),
        "uncond": (Source(branch="cond", live=True, solver=weights(1)), constant),
    }
    return changed(plan, points={FEATURE: forecast.model_copy(update={"sources": sources})})


def mixed_plan(
    module: FluxTransformer2DModel, policy: MixedGranularity | None = None, most: int | None = None, **fields: Any
) -> Plan:
    """The output, the branch "uncond" beside "cond", or the last double block is reused."""
    impact = {"step": 1.0, "branch": 0.5, "block": 0.5}
    decides = policy or MixedGranularity(0.5, impact, "cond", warmup=2, initial=3)
    output = alike("output", module.config["in_channels"], Hold()).model_copy(update={"against": {"uncond": "cond"}})
    path = f"transformer_blocks.{len(module.transformer_blocks) - 1}"
    block = alike(f"span:{path}..{path}:residual", 2 * module.inner_dim, Hold())
    palette = (COMPUTE, Action(forecast=("block",)), Action(forecast=("output",)))
    told: dict[str, Any] = {
        "points": {"block": block, "output": output},
        "schedule": Schedule(
            palette=palette, tables=dict.fromkeys((EVERY, "cond", "uncond"), (0,) + (2,) * (STEPS - 1))
        ),
        "action_flops": (4.0, 3.0, 0.5),
        "policy": decides.spec(most),
    }
    return changed(make_plan(module, computed=[0]), **told | fields)
