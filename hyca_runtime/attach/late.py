"""A call that decides on its way whether the blocks behind a probe run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from hyca_runtime.attach.block_io import Streams, block_io, main_stream, stream_like
from hyca_runtime.attach.bound_point import BoundPoint, Captured, Keeper, Proxies
from hyca_runtime.attach.compiling import outside
from hyca_runtime.attach.points import Place, cut_lists, find_block_lists, find_tail, nth_block
from hyca_runtime.attach.proxies import CaptureStreams, Proxy
from hyca_runtime.errors import AttachError
from hyca_runtime.feature import Feature


@dataclass(frozen=True)
class Probe:
    """What a call knows when it reaches the first block behind the probe.

    Attributes:
        entered: the main stream as it came into the first block.
        reached: as it comes out of the leading blocks.
        leading: features of points of leading blocks, by name.
    """

    entered: Tensor
    reached: Tensor
    leading: Captured


Decide = Callable[[Probe], Feature | None]
"""The forecast of what is behind, or None to compute it. Asked once in a call, never inside a compiled graph."""


class Decision:
    """What one call decided, once it did.

    Args:
        first: stands where the first block does.
        late: where it decides.

    Attributes:
        forecast: of what is behind, None until it is made or if that is computed.
    """

    def __init__(self, decide: Decide, first: CaptureStreams, late: LateBehind) -> None:
        self.first = first
        self.forecast: Feature | None = None
        self._ask, self._decide, self._late = outside(self._asked), decide, late
        self._made = False
        self._streams: Streams = {}

    def at(self, streams: Streams) -> bool:
        """Whether what is behind is forecast; decided at the first block that asks.

        Args:
            streams: what comes into that block.
        """
        if not self._made:
            entered, name = self.first.streams, main_stream(streams)
            self._made, self._streams = True, entered if self._late.whole else streams
            self.forecast = self._ask(entered.get(name, streams[name]), streams[name])
        return self.forecast is not None

    def _asked(self, entered: Tensor, reached: Tensor) -> Feature | None:
        return self._decide(Probe(entered, reached, self._late.captured(self._late.leading)))

    def hand_over(self, output: Any, keep: Keeper) -> None:
        """Tell the features that are not known since the decision, if they were computed."""
        if self._made and self.forecast is None:
            keep(self._late.captured([n for n in self._late.bound if n not in self._late.leading], output))
        else:
            for point in self._late.bound.values():
                point.discard()

    def origin(self, value: Tensor) -> Tensor:
        """What the forecast blocks make `value` from.

        Raises:
            AttachError: no such stream.
        """
        found = stream_like(self._streams, value)
        if found is None:
            raise AttachError(
                f"no block takes what the final norm does, {tuple(value.shape)}; probe fewer or more blocks"
            )
        return found


class Gate(Proxy):
    """Runs `inner`, or hands its inputs on if what is behind is forecast."""

    def __init__(self, inner: nn.Module, decision: Decision) -> None:
        super().__init__(inner)
        self.io, self.decision = block_io(self.own), decision

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        values = self.io.inputs(self.own.forward, args, kwargs)
        if self.decision.at(self.io.named(values)):
            return values if len(values) > 1 else values[0]
        return self.inner(*args, **kwargs)


class GatedTail(Proxy):
    """Runs `inner` on its input; on what came to the first block behind plus the forecast, if there is one."""

    def __init__(self, inner: nn.Module, decision: Decision) -> None:
        super().__init__(inner)
        self.decision = decision

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        origin = self.decision.origin(x)
        if self.decision.forecast is not None:
            return self.inner(origin + self.decision.forecast[0], *args, **kwargs)
        return self.inner(x, *args, **kwargs)


class LateBehind:
    """What blocks add, decided while the call runs.

    Args:
        running: how many lead, counted across the lists in order.
        whole: whether they belong to what is forecast, which then is added to what came into the first block.
        bound: all points, by name.
        leading: names of those that are known once the leading blocks have run.

    Raises:
        AttachError: there are not more blocks than that, or what they take is not known.
    """

    def __init__(
        self, network: nn.Module, running: int, whole: bool, bound: Mapping[str, BoundPoint], leading: Sequence[str]
    ) -> None:
        self.whole, self.bound, self.leading = whole, bound, leading
        lists = find_block_lists(network)
        cut = cut_lists(lists, running)
        self._first = nth_block(lists[0], 0)
        self._gated = [
            nth_block(blocks, i) for blocks, runs in cut for i in range(runs, len(list(blocks.module.children())))
        ]
        tail = find_tail(network)
        if len(tail) > 1:
            raise AttachError(f"{type(network).__name__} has {len(tail)} streams at its end; one can be probed")
        self._tail: list[Place] = tail[0]

    def begin(self, decide: Decide) -> Decision:
        """The decision of one call."""
        return Decision(decide, CaptureStreams(self._first.module), self)

    def stands(self, decision: Decision) -> list[Callable[[], Proxies]]:
        """Who stands in the network meanwhile, from the innermost: captures see what a gate is asked about, and what it
        leaves to the final norm."""
        return [
            lambda: [(self._first, decision.first), *((at, Gate(at.module, decision)) for at in self._gated)],
            *(point.captures for point in self.bound.values()),
            lambda: [(at, GatedTail(at.module, decision)) for at in self._tail],
        ]

    def captured(self, names: Iterable[str], output: Any = None) -> Captured:
        """The features of some points in the call so far."""
        return {name: self.bound[name].captured(output) for name in names}
