"""What one run shows of a network, at the price of little more than one step."""

from __future__ import annotations

from typing import Any

from torch import nn

from hyca_runtime.attach.attachment import Attachment
from hyca_runtime.attach.channel_axis import settle_axes
from hyca_runtime.attach.clock import Clock
from hyca_runtime.calls import CallResolver
from hyca_runtime.feature import Feature, Signature, signature, widths
from hyca_runtime.flop_count import count_flops
from hyca_runtime.point import CachePoint, parse_point
from hyca_runtime.schedule import FEATURE


class FirstLook:
    """Answers a network's calls from `install` until `remove`: the first of each guidance branch is computed, later
    ones repeat what it gave. What comes out is no sample.

    Attributes:
        point: the network's output. Closed forms do better there than before the final norm, which takes out what
            differs in size from step to step.
        sampler: the class of the scheduler, "any" where none is known.
        times, scheduler_times: one for each step; the second what the scheduler calls them, if it does.
        channels: of the point.
        numel: numbers in its features on a step, all branches together.
        full_flops: of a step that is computed, all branches together.
    """

    def __init__(self, module: nn.Module, pipe: Any) -> None:
        self.module, self.sampler = module, "any"
        self._attachment = Attachment(module, parse_point("output"))
        self._clock = Clock(module, pipe)
        self._resolver = CallResolver(self._clock)
        self._kept: dict[tuple[str, int], tuple[Signature, Feature]] = {}
        self._times: list[tuple[float, float | None]] = []
        self.channels, self.numel, self.full_flops = 0, 0, 0.0

    @property
    def point(self) -> CachePoint:
        return self._attachment.point

    @property
    def times(self) -> tuple[float, ...]:
        return tuple(time for time, _ in self._times)

    @property
    def scheduler_times(self) -> tuple[float, ...] | None:
        known = tuple(told for _, told in self._times if told is not None)
        return known if len(known) == len(self._times) else None

    def install(self) -> None:
        """Answer the network's calls."""
        self._attachment.install(self._answer)

    def remove(self) -> None:
        """Restore the network exactly."""
        self._attachment.remove()

    def _answer(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        call = self._resolver.resolve(args, kwargs, self._attachment.context.said.branch)
        looks = signature((args, kwargs))
        if self._resolver.track.run > 0:
            return self._attachment.run(args, kwargs, (), {})[0]
        if call.progress != "stays":
            self.sampler = self._clock.sampler() or "any"
            self._times.append((self._clock.timestep(args, kwargs).read()[0], self._clock.scheduler_time()))
        known, feature = self._kept.get((call.branch, call.part), (None, None))
        inject = {FEATURE: feature} if feature is not None and known == looks else {}
        if inject:
            return self._attachment.run(args, kwargs, (), inject)[0]
        found = list[Any]()
        flops = count_flops(lambda: found.extend(self._attachment.run(args, kwargs, (FEATURE,), {})))
        output, captured = found
        if (seen := captured.get(FEATURE)) is not None:
            self._kept[call.branch, call.part] = looks, seen
            if len(self._times) == 1:
                self.full_flops += flops
                settle_axes(self._attachment, captured)
                self.channels = sum(widths(seen, self.point.channel_axis))
                self.numel += sum(part.numel() for part in seen)
        return output
