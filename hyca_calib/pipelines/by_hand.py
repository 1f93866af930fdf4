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
from hyca_runtime.feature import widths
from hyca_runtime.group import DimensionGroup, encode_channels
from hyca_runtime.plan import ModelFingerprint, NetworkPlan, TimeGrid
from hyca_runtime.point import CachePoint
from hyca_runtime.schedule import Schedule
from hyca_runtime.session import config_digest
from hyca_runtime.solvers import Newton

__all__ = ["hand_plan", "hand_section"]


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
        seen = _Seen(module, point, getattr(pipe, "scheduler", None))
        with seen:
            sample()
        if seen.times:
            sections.append(
                hand_section(
                    module,
                    point,
                    seen.channels,
                    seen.times,
                    seen.scheduler_times if None not in seen.scheduler_times else None,
                    computed(len(seen.times)),
                    component,
                )
            )
    return Plan(name="by hand", sections=tuple(sections))


class _Seen:
    """Notes the times of a network's first pass over its steps, and its channels."""

    def __init__(self, module: nn.Module, point: CachePoint, scheduler: Any) -> None:
        self._attachment, self._clock = Attachment(module, point), Clock(module, scheduler)
        self.times: list[float] = []
        self.scheduler_times: list[Any] = []
        self.channels = 0

    def __enter__(self) -> None:
        self._attachment.install(self._answer)

    def __exit__(self, *exc: object) -> None:
        self._attachment.remove()

    def _answer(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        output, feature = self._attachment.compute(args, kwargs)
        time, _ = self._clock.timestep(args, kwargs)
        if feature is not None and time not in self.times:
            self.times.append(time)
            self.scheduler_times.append(self._clock.scheduler_time())
            self.channels = sum(widths(feature, self._attachment.point.channel_axis))
        return output
