"""A call that decides on its way whether the blocks behind a probe run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from hyca_runtime.attach.block_io import block_io
from hyca_runtime.attach.bound_point import Proxies
from hyca_runtime.attach.compiling import outside
from hyca_runtime.attach.points import Place, cut_lists, find_block_lists, find_tail, nth_block
from hyca_runtime.attach.proxies import CaptureStreams, Proxy
from hyca_runtime.errors import AttachError
from hyca_runtime.feature import Feature

Streams = dict[str, Tensor]
"""Tensors by the name of the block's argument."""


@dataclass(frozen=True)
class Probe:
    """What a call knows when it reaches the first block behind the probe.

    Attributes:
        entered: the main stream as it came into the first block.
        reached: as it comes out of the leading blocks.
    """

    entered: Tensor
    reached: Tensor


Decide = Callable[[Probe], Feature | None]
"""The forecast of what is behind, or None to compute it. Asked once in a call, never inside a compiled graph."""


class Decision:
    """What one call decided, once it did.

    Args:
        whole: whether the forecast is what all blocks add, the leading ones among them.
    """

    def __init__(self, decide: Decide, first: CaptureStreams, whole: bool) -> None:
        self._ask, self._first, self._whole = outside(decide), first, whole
        self._made = False
        self._streams: Streams = {}
        self.forecast: Feature | None = None

    def at(self, streams: Streams) -> bool:
        """Whether what is behind is forecast; decided at the first block that asks.

        Args:
            streams: what comes into that block.
        """
        if not self._made:
            first = zip(self._first.io.returns, self._first.captured or (), strict=False)
            entered = {name: stream for name, stream in first if isinstance(stream, Tensor)}
            name = _main(streams)
            self._made, self._streams = True, entered if self._whole else streams
            self.forecast = self._ask(Probe(entered.get(name, streams[name]), streams[name]))
        return self.forecast is not None

    def origin(self, value: Tensor) -> Tensor:
        """What the forecast blocks make `value` from.

        Raises:
            AttachError: no such stream.
        """
        found = next((stream for stream in self._streams.values() if stream.shape == value.shape), None)
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
        named = {n: v for n, v in zip(self.io.returns, values, strict=False) if isinstance(v, Tensor)}
        if self.decision.at(named):
            return values if len(values) > 1 else values[0]
        return self.inner(*args, **kwargs)


class GatedTail(Proxy):
    """Runs `inner` on its input, plus the forecast if there is one; keeps what the blocks behind added if not."""

    def __init__(self, inner: nn.Module, decision: Decision) -> None:
        super().__init__(inner)
        self.decision = decision
        self.added: Tensor | None = None

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        origin = self.decision.origin(x)
        if self.decision.forecast is not None:
            return self.inner(origin + self.decision.forecast[0], *args, **kwargs)
        self.added = x - origin
        return self.inner(x, *args, **kwargs)


class LateBehind:
    """What blocks add, decided while the call runs.

    Args:
        running: how many lead, counted across the lists in order.
        whole: whether they belong to what is forecast, which then is added to what came into the first block.

    Raises:
        AttachError: there are not more blocks than that, or what they take is not known.
    """

    def __init__(self, network: nn.Module, running: int, whole: bool) -> None:
        self._whole = whole
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
        self._watching: list[GatedTail] = []

    def proxies(self, decide: Decide) -> Proxies:
        """The stand-ins of one call."""
        first = CaptureStreams(self._first.module)
        decision = Decision(decide, first, self._whole)
        self._watching = [GatedTail(place.module, decision) for place in self._tail]
        gates = [(place, Gate(place.module, decision)) for place in self._gated]
        return [(self._first, first), *gates, *zip(self._tail, self._watching, strict=True)]

    def captured(self) -> Feature | None:
        """What the blocks behind added in the call that just ended; None if it was forecast."""
        added = [tail.added for tail in self._watching if tail.added is not None]
        self._watching = []
        return Feature(added, [self._tail]) if added else None


def _main(streams: Streams) -> str:
    """The name of the stream that the final norm sees."""
    return "hidden_states" if "hidden_states" in streams else next(iter(streams))
