"""Plans without a search: linear extrapolation on steps that the caller names."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import nn

from hyca_calib.pipelines.pipeline import Pipeline
from hyca_runtime import Plan
from hyca_runtime.attach.attachment import Attachment
from hyca_runtime.attach.clock import Clock
from hyca_runtime.attach.points import find_transformers
from hyca_runtime.calls import CallResolver
from hyca_runtime.feature import widths
from hyca_runtime.plain_section import plain_section
from hyca_runtime.point import CachePoint
from hyca_runtime.schedule import FEATURE, Schedule


def hand_plan(
    pipe: Pipeline | nn.Module,
    points: CachePoint | Mapping[str, CachePoint],
    sample: Callable[[], Any],
    schedule: Callable[[int], Sequence[int] | Schedule],
) -> Plan:
    """A plan for a pipeline or a network alone, from one full run of `sample`.

    Args:
        points: one, or several by the names that the schedule uses.
        schedule: from the number of steps of a network to those that are computed, or to what each does.
    """
    named = {FEATURE: points} if isinstance(points, CachePoint) else points
    sections = []
    for component, module in find_transformers(pipe).items():
        times, channels = _seen(module, named, pipe, sample)
        if times:
            known = [told for _, told in times if told is not None]
            heard, steps = [time for time, _ in times], schedule(len(times))
            told = known if len(known) == len(times) else None
            chosen = steps if isinstance(steps, Schedule) else Schedule.from_steps(len(times), steps, next(iter(named)))
            sizes = {name: (point, channels[name]) for name, point in named.items()}
            sections.append(plain_section(module, sizes, heard, told, chosen, component))
    return Plan(name="by hand", sections=tuple(sections))


def _seen(
    module: nn.Module, points: Mapping[str, CachePoint], pipe: Any, sample: Callable[[], Any]
) -> tuple[list[tuple[float, float | None]], dict[str, int]]:
    """The times of a network's first pass over its steps, each with the scheduler's; and the channels of each point."""
    attachment, clock = Attachment(module, points), Clock(module, pipe)
    resolver, times, channels = CallResolver(clock), list[tuple[float, float | None]](), dict[str, int]()

    def answer(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        output, captured = attachment.run(args, kwargs, points, {})
        features = {name: feature for name, feature in captured.items() if feature is not None}
        if features:
            call = resolver.resolve(args, kwargs, attachment.context.said.branch)
            if resolver.track.run == 0 and call.progress != "stays":
                times.append((clock.timestep(args, kwargs).read()[0], clock.scheduler_time()))
                channels.update({name: sum(widths(f, points[name].channel_axis)) for name, f in features.items()})
        return output

    attachment.install(answer)
    try:
        sample()
    finally:
        attachment.remove()
    return times, channels
