"""A call that decides on its way whether the blocks behind a probe run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor, nn

from hyca_runtime.attach.block_io import Streams, block_io, main_stream, stream_like
from hyca_runtime.attach.bound_modules import BoundModules
from hyca_runtime.attach.bound_point import BoundPoint, Captured, Keeper, Proxies
from hyca_runtime.attach.compiling import outside
from hyca_runtime.attach.points import SIDE_LIST, Place, cut_lists, find_block_lists, find_blocks, find_tail, nth_block
from hyca_runtime.attach.proxies import CaptureStreams, Proxy
from hyca_runtime.errors import AttachError
from hyca_runtime.feature import Feature


@dataclass(frozen=True)
class Probe:
    """What a call knows when it reaches the first block behind the probe.

    Attributes:
        entered: the main stream as it came into the probe's first block.
        reached: as it comes out of the probe.
        leading: features of points of leading blocks, by name.
    """

    entered: Tensor
    reached: Tensor
    leading: Captured


Decide = Callable[[Probe], Feature | None]
"""The forecast of what is behind, or None to compute it. Asked once in a call, never inside a compiled graph."""


class Staged(NamedTuple):
    """Two decisions of a call: on its way about the span of that name, then about what is behind later blocks."""

    span: str
    first: Decide
    then: Decide


class Decision:
    """What one call decided, once it did.

    Args:
        first: stands where the first block does.
        late: where it decides.
        earlier: what was decided before in the call.

    Attributes:
        forecast: of what is behind, None until it is made or if that is computed.
    """

    def __init__(
        self, decide: Decide, first: CaptureStreams, late: LateBehind, earlier: SpanDecision | None = None
    ) -> None:
        self.first, self.earlier = first, earlier
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
        decided: dict[str, Decision] = dict.fromkeys(self._late.bound, self)
        if self.earlier is not None:
            decided[self._late.span] = self.earlier
        computed = [n for n, by in decided.items() if by.computes and n not in self._late.leading]
        if computed:
            keep(self._late.captured(computed, output))
        for name in self._late.bound.keys() - set(computed):
            self._late.bound[name].discard()

    @property
    def computes(self) -> bool:
        """Whether the call came here, and computed what is behind."""
        return self._made and self.forecast is None

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


class SpanDecision(Decision):
    """That about a span.

    Attributes:
        recall: stands where its last block does if it is forecast.
    """

    recall: nn.Module

    def _asked(self, entered: Tensor, reached: Tensor) -> Feature | None:
        found = super()._asked(entered, reached)
        if found is not None:
            *_, (_, self.recall) = self._late.bound[self._late.span].injectors(found)
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


class LastOfSpan(Gate):
    """Runs `inner`, or adds to its inputs what the span adds, if that is forecast."""

    decision: SpanDecision

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        values = self.io.inputs(self.own.forward, args, kwargs)
        return (self.decision.recall if self.decision.at(self.io.named(values)) else self.inner)(*args, **kwargs)


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
        span: name of one that is decided about before, "" for none; the probe then is what leads behind it.

    Raises:
        AttachError: there are not more blocks than that, or what they take is not known.
    """

    def __init__(
        self,
        network: nn.Module,
        running: int,
        whole: bool,
        bound: Mapping[str, BoundPoint],
        leading: Sequence[str],
        span: str = "",
    ) -> None:
        self.whole, self.bound, self.leading, self.span = whole, bound, leading, span
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
        self._span: tuple[Place, ...] = ()
        self._after = self._first
        if span and isinstance(bound_span := bound[span], BoundModules):
            self._span = bound_span.places
            self._after = _behind(network, self._span[-1], running)

    def begin(self, decide: Decide | Staged) -> Decision:
        """The decision of one call, the last of it."""
        first = CaptureStreams(self._first.module)
        if not isinstance(decide, Staged):
            return Decision(decide, first, self)
        earlier = SpanDecision(decide.first, first, self)
        return Decision(decide.then, CaptureStreams(self._after.module), self, earlier)

    def stands(self, decision: Decision) -> list[Callable[[], Proxies]]:
        """Who stands in the network meanwhile, from the innermost: captures see what a gate is asked about, and what it
        leaves to the final norm."""
        return [
            lambda: self._gates(decision),
            *(point.captures for point in self.bound.values()),
            lambda: [(at, GatedTail(at.module, decision)) for at in self._tail],
        ]

    def _gates(self, decision: Decision) -> Proxies:
        behind = [(self._after, decision.first), *((at, Gate(at.module, decision)) for at in self._gated)]
        if (earlier := decision.earlier) is None:
            return behind
        *gated, last = self._span
        gates = [*((at, Gate(at.module, earlier)) for at in gated), (last, LastOfSpan(last.module, earlier))]
        return [(self._first, earlier.first), *gates, *behind]

    def captured(self, names: Iterable[str], output: Any = None) -> Captured:
        """The features of some points in the call so far."""
        return {name: self.bound[name].captured(output) for name in names}


def _behind(network: nn.Module, last: Place, running: int) -> Place:
    """The block behind the last one of a span.

    Raises:
        AttachError: that is none of those that lead.
    """
    leading = [place for place in find_blocks(network) if not SIDE_LIST.search(place.path)][:running]
    ends = [place.path for place in leading[:-1]]
    if last.path not in ends:
        raise AttachError(f"the span that ends at {last.path} leaves no block between it and 'behind:{running}'")
    return leading[ends.index(last.path) + 1]
