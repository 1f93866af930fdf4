"""Plans without a search: linear extrapolation on steps that the caller names."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from hyca_calib.pipelines.pipeline import Pipeline
from hyca_runtime import Plan
from hyca_runtime.attach.attachment import Attachment
from hyca_runtime.attach.clock import Clock
from hyca_runtime.attach.points import find_transformers
from hyca_runtime.calls import CallResolver
from hyca_runtime.feature import widths
from hyca_runtime.fingerprint import config_digest
from hyca_runtime.group import DimensionGroup, encode_channels
from hyca_runtime.network_plan import ModelFingerprint, NetworkPlan, TimeGrid
from hyca_runtime.point import CachePoint
from hyca_runtime.schedule import Schedule
from hyca_runtime.solvers import Newton


def hand_section(
    module: nn.Module,
    point: CachePoint,
    num_channels: int,
    timesteps: Sequence[float],
    scheduler_timesteps: Sequence[float] | None,
    computed: Sequence[int],
    component: str = "transformer",
) -> NetworkPlan:
    """A section without a search: linear extrapolation of every channel, on the step axis."""
    steps = len(timesteps)
    return NetworkPlan(
        component=component,
        model=ModelFingerprint(
            transformer=type(module).__name__, config_digest=config_digest(module), num_channels=num_channels
        ),
        sampler=TimeGrid(
            scheduler="any",
            timesteps=tuple(timesteps),
            scheduler_timesteps=tuple(scheduler_timesteps) if scheduler_timesteps else None,
            axis="step",
            axis_times=tuple(float(s) for s in range(steps)),
        ),
        point=point,
        schedule=Schedule.from_steps(steps, computed),
        groups=(
            DimensionGroup(name="all", channels=encode_channels(range(num_channels)), solver=Newton(order=1).spec()),
        ),
    )


def hand_plan(
    pipe: Pipeline | nn.Module,
    point: CachePoint,
    sample: Callable[[], Any],
    computed: Callable[[int], Sequence[int]],
) -> Plan:
    """A plan for a pipeline or a network alone, from one full run of `sample`.

    Args:
        computed: from the steps of a network to those that are computed.
    """
    sections = []
    for component, module in find_transformers(pipe).items():
        times, channels = _seen(module, point, pipe, sample)
        if times:
            known = [told for _, told in times if told is not None]
            heard, steps = [time for time, _ in times], computed(len(times))
            told = known if len(known) == len(times) else None
            sections.append(hand_section(module, point, channels, heard, told, steps, component))
    return Plan(name="by hand", sections=tuple(sections))


def _seen(
    module: nn.Module, point: CachePoint, pipe: Any, sample: Callable[[], Any]
) -> tuple[list[tuple[float, float | None]], int]:
    """The times of a network's first pass over its steps, each with the scheduler's; and its channels."""
    attachment, clock = Attachment(module, point), Clock(module, pipe)
    resolver, times, channels = CallResolver(clock), list[tuple[float, float | None]](), 0

    def answer(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        nonlocal channels
        output, feature = attachment.compute(args, kwargs)
        if feature is not None:
            call = resolver.resolve(args, kwargs, attachment.context.branch)
            if resolver.track.run == 0 and call.progress != "stays":
                times.append((clock.timestep(args, kwargs).read()[0], clock.scheduler_time()))
                channels = sum(widths(feature, attachment.point.channel_axis))
        return output

    attachment.install(answer)
    try:
        sample()
    finally:
        attachment.remove()
    return times, channels
