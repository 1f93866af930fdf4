"""The input of the final norm as a cache point."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from hyca_runtime.attach.block_io import stream_like
from hyca_runtime.attach.bound_point import BoundPoint, Proxies
from hyca_runtime.attach.points import Place, cut_lists, find_block_lists, find_embedders, find_tail, nth_block
from hyca_runtime.attach.proxies import (
    AddToInput,
    CaptureInput,
    CaptureStreams,
    IdleLinear,
    InjectInput,
    LeadingBlocks,
    PassBy,
)
from hyca_runtime.errors import AttachError
from hyca_runtime.feature import Feature


class BoundTail(BoundPoint):
    """The input of the final norm; only leading blocks run, or none.

    Args:
        residual: what the blocks that do not run add to the first one's input, which is what the final norm would see
            without them.
        running: how many blocks run, counted across the lists in order.

    Raises:
        AttachError: there are not more blocks than that.
    """

    def __init__(self, network: nn.Module, residual: bool, running: int = 0) -> None:
        self._network, self._residual = network, residual
        self._tail = find_tail(network)
        self._cut = cut_lists(find_block_lists(network), running)
        self._embedders = find_embedders(network)
        self._places = [place for part in self._tail for place in part]
        self._watched: list[nn.Module] = []
        self._watching: list[list[CaptureInput]] = []
        self._origins: list[CaptureStreams] = []
        self._pairs: list[tuple[Place, nn.Module]] = []

    def captures(self) -> Proxies:
        if [place.module for place in self._places] != self._watched:  # new, or replaced since
            self._watched = [place.module for place in self._places]
            self._watching = [[CaptureInput(place.module) for place in part] for part in self._tail]
            flat = [watcher for part in self._watching for watcher in part]
            self._pairs = list(zip(self._places, flat, strict=True))
        self.discard()  # of a call that an exception cut off
        if not self._residual:
            return self._pairs
        begins = [nth_block(blocks, runs) for blocks, runs in self._cut]
        self._origins = [CaptureStreams(place.module) for place in begins]
        return [*zip(begins, self._origins, strict=True), *self._pairs]

    def captured(self, output: Any) -> Feature | None:
        del output
        parts = [[watcher.kept.pop() for watcher in part for _ in tuple(watcher.kept)] for part in self._watching]
        if not any(parts):
            return None
        for part, places in zip(parts, self._tail, strict=True):
            if len(part) > 1:
                name = f"{type(self._network).__name__}.{places[0].path}"
                raise AttachError(f"{name} was called {len(part)} times in one call; use the point 'output'")
        used = [places for part, places in zip(parts, self._tail, strict=True) if part]
        found = [part[0] for part in parts if part]
        if self._residual:
            found = [value - self._origin(value) for value in found]
            self._origins = []
        return Feature(found, used)

    def _origin(self, value: Tensor) -> Tensor:
        """What the blocks made `value` from."""
        for entry in self._origins:
            if (stream := stream_like(entry.streams, value)) is not None:
                return stream
        raise AttachError(
            f"no block of {type(self._network).__name__} takes what its final norm does, {tuple(value.shape)}; "
            "use the point 'trunk'"
        )

    def discard(self) -> None:
        for part in self._watching:
            for watcher in part:
                watcher.kept.clear()
        self._origins = []

    def leaves_out(self, path: str) -> bool:
        """Whether the block at a path does not run while this is forecast."""
        owner, _, number = path.rpartition(".")
        return any(blocks.path == owner and int(number) >= runs for blocks, runs in self._cut)

    def injectors(self, feature: Feature) -> Proxies:
        idle = [(at, _idle(at.module, runs)) for at, runs in self._cut]
        tails = [(place, part) for places, part in zip(feature.form, feature, strict=True) for place in places]
        if self._residual:
            return [*idle, *((place, AddToInput(place.module, part)) for place, part in tails)]
        embedders = ((place, place.module) for place in self._embedders)  # perhaps adapted or quantised by now
        idle += [(place, IdleLinear(module)) for place, module in embedders if type(module) is nn.Linear]
        return [*idle, *((place, InjectInput(place.module, part)) for place, part in tails)]


LOOPS_MATTER = frozenset({"HiDreamBlock", "HunyuanDiTBlock"})
"""Blocks whose network needs afterwards what it does in its loop over them, beside calling them."""


def _idle(blocks: nn.Module, running: int) -> nn.Module:
    members = list(blocks.children())
    if any(type(block).__name__ in LOOPS_MATTER for block in members):
        return nn.ModuleList([*members[:running], *(PassBy(block) for block in members[running:])])
    return LeadingBlocks(blocks if isinstance(blocks, nn.ModuleList) else members, running)
