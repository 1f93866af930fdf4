"""What the leading blocks add as a cache point: others weigh it, it is never put in."""

from __future__ import annotations

from typing import Any

from torch import nn

from hyca_runtime.attach.block_io import main_stream
from hyca_runtime.attach.bound_point import BoundPoint, Proxies
from hyca_runtime.attach.points import cut_lists, find_block_lists, nth_block
from hyca_runtime.attach.proxies import CaptureStreams
from hyca_runtime.errors import AttachError
from hyca_runtime.feature import Feature


class BoundLeading(BoundPoint):
    """The stream of the final norm as it comes to the first block behind, less as it came into the first of all.

    Args:
        running: how many lead, counted across the lists in order.

    Raises:
        AttachError: there are not more blocks than that.
    """

    def __init__(self, network: nn.Module, running: int) -> None:
        lists = find_block_lists(network)
        self._kind, self._ends = (
            type(network).__name__,
            (nth_block(lists[0], 0), nth_block(*cut_lists(lists, running)[0])),
        )
        self._watching: list[CaptureStreams] = []

    def captures(self) -> Proxies:
        self._watching = [CaptureStreams(place.module) for place in self._ends]
        return list(zip(self._ends, self._watching, strict=True))

    def captured(self, output: Any) -> Feature | None:
        del output
        entered, reached = (watcher.streams for watcher in self._watching)
        self.discard()
        if not entered or not reached:
            return None
        name = main_stream(reached)
        begin, end = entered.get(name), reached[name]
        if begin is None or begin.shape != end.shape:
            raise AttachError(
                f"the blocks of {self._kind} that lead take another stream than those behind, {tuple(end.shape)}; "
                "let fewer lead, or more"
            )
        return Feature((end - begin,))

    def discard(self) -> None:
        self._watching = []

    def injectors(self, feature: Feature) -> Proxies:
        del feature
        raise AttachError("what leading blocks add is weighed by forecasts of other points, and never forecast itself")
