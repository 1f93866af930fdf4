"""Cache points in a network: who stands where while it is computed, and while it is predicted."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from hyca_runtime.attach.block_io import BlockIO, block_io
from hyca_runtime.attach.points import (
    Place,
    find_block_lists,
    find_blocks,
    find_embedders,
    find_modules,
    find_span,
    find_tail,
    first_block,
)
from hyca_runtime.attach.proxies import (
    AddToInput,
    CaptureInput,
    CaptureOutput,
    CaptureStreams,
    IdleLinear,
    IdleList,
    InjectInput,
    PassBy,
    Recall,
)
from hyca_runtime.errors import AttachError
from hyca_runtime.feature import Feature
from hyca_runtime.point import CachePoint

Proxies = Sequence[tuple[Place, nn.Module]]


class BoundPoint(ABC):
    """One cache point of one network. What it must know to put a feature back goes with the feature."""

    @abstractmethod
    def captures(self) -> Proxies:
        """The proxies that stand in its modules' places while the network is computed."""

    @abstractmethod
    def captured(self, output: Any) -> Feature | None:
        """The feature of the call that just ended with `output`; None if it never came to the point."""

    @abstractmethod
    def injectors(self, feature: Feature) -> Proxies:
        """The proxies that stand there while the network is predicted from `feature`."""


class BoundOutput(BoundPoint):
    """What the network returns."""

    def captures(self) -> Proxies:
        return ()

    def captured(self, output: Any) -> Feature:
        parts: list[Tensor] = []
        form = _take_apart(output, parts)
        return Feature(parts, form)

    def injectors(self, feature: Feature) -> Proxies:
        raise NotImplementedError("nothing runs when an output is predicted")

    def output(self, feature: Feature) -> Any:
        """`feature` in the form in which the network returned it."""
        return _put_together(feature.form, iter(feature))


class BoundTrunk(BoundPoint):
    """The input of the final norm; no block runs.

    Args:
        residual: what the blocks add to the first one's input, which is what the final norm would see without them.
    """

    def __init__(self, network: nn.Module, residual: bool) -> None:
        self._network, self._residual = network, residual
        self._tail = find_tail(network)
        self._lists = find_block_lists(network)
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
        for part in self._watching:
            for watcher in part:
                watcher.kept.clear()  # of a call that an exception cut off
        if not self._residual:
            return self._pairs
        begins = [first_block(blocks) for blocks in self._lists]
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
            streams = zip(entry.io.returns, entry.captured or (), strict=False)
            for _, stream in sorted(streams, key=lambda named: named[0] != "hidden_states"):
                if isinstance(stream, Tensor) and stream.shape == value.shape:
                    return stream
        raise AttachError(
            f"no block of {type(self._network).__name__} takes what its final norm does, {tuple(value.shape)}; "
            "use the point 'trunk'"
        )

    def injectors(self, feature: Feature) -> Proxies:
        idle = [(place, _idle(place.module)) for place in self._lists]
        tails = [(place, part) for places, part in zip(feature.form, feature, strict=True) for place in places]
        if self._residual:
            return [*idle, *((place, AddToInput(place.module, part)) for place, part in tails)]
        embedders = ((place, place.module) for place in self._embedders)  # perhaps adapted or quantised by now
        idle += [(place, IdleLinear(module)) for place, module in embedders if type(module) is nn.Linear]
        return [*idle, *((place, InjectInput(place.module, part)) for place, part in tails)]


class BoundModules(BoundPoint):
    """The outputs of modules; none of them runs, nor the blocks that stand between.

    Args:
        kept: modules whose outputs are the parts.
        passed_by: blocks before the kept one of a span.
        residual: whether a part is the output less the input.
    """

    def __init__(self, kept: Sequence[Place], passed_by: Sequence[Place], residual: bool) -> None:
        self._kept, self._passed_by = kept, passed_by
        self._ios: list[BlockIO | None] = [block_io(place.module) if residual else None for place in kept]
        self._watching: list[CaptureOutput] = []

    def captures(self) -> Proxies:
        begin: list[tuple[Place, CaptureStreams]] = []
        if self._passed_by and self._ios[0] is not None:
            begin = [(self._passed_by[0], CaptureStreams(self._passed_by[0].module))]
        origin = begin[0][1] if begin else None
        self._watching = [CaptureOutput(p.module, io, origin) for p, io in zip(self._kept, self._ios, strict=True)]
        return [*begin, *zip(self._kept, self._watching, strict=True)]

    def captured(self, output: Any) -> Feature | None:
        del output
        parts: list[Tensor] = []
        forms = []
        for watcher in self._watching:
            kept = watcher.captured or ()  # a network need not call all its modules: Flux 3 has blocks by modality
            parts += [value for value in kept if value is not None]
            forms.append((watcher.alone, [value is not None for value in kept]))
        self._watching = []
        return Feature(parts, forms) if parts else None

    def injectors(self, feature: Feature) -> Proxies:
        parts = iter(feature)
        found: list[tuple[Place, nn.Module]] = [(place, PassBy(place.module)) for place in self._passed_by]
        for place, io, (alone, there) in zip(self._kept, self._ios, feature.form, strict=True):
            if not there:
                continue
            outputs = tuple(next(parts) if present else None for present in there)
            found.append((place, Recall(place.module, outputs, alone, io)))
        return found


def bind_point(network: nn.Module, point: CachePoint) -> BoundPoint:
    """Where `point` lies in `network`.

    Raises:
        AttachError: nowhere.
    """
    if point.kind == "output":
        return BoundOutput()
    residual = point.keep == "residual"
    if point.kind == "trunk":
        return BoundTrunk(network, residual)
    if point.kind == "span":
        span = find_span(network, *point.ends)
        return BoundModules(span[-1:], span[:-1], residual)
    kept = find_blocks(network) if point.kind == "blocks" else find_modules(network, point.path)
    return BoundModules(kept, (), residual)


LOOPS_MATTER = frozenset({"HiDreamBlock", "HunyuanDiTBlock"})
"""Blocks whose network needs afterwards what it does in its loop over them, beside calling them."""


def _idle(blocks: nn.Module) -> nn.Module:
    if any(type(block).__name__ in LOOPS_MATTER for block in blocks.children()):
        return nn.ModuleList([PassBy(block) for block in blocks.children()])
    return IdleList(blocks if isinstance(blocks, nn.ModuleList) else blocks.children())


@dataclass(frozen=True)
class _Form:
    """How a nested output is built: a container and what is in it, or a constant that holds no tensor."""

    kind: Any
    inside: Any


def _take_apart(output: Any, parts: list[Tensor]) -> Any:
    """The form of `output`; its tensors are appended to `parts`."""
    if isinstance(output, Tensor):
        parts.append(output)
        return Tensor
    if isinstance(output, dict) and type(output) is not dict:  # an output class of diffusers
        return _Form(type(output), {key: _take_apart(value, parts) for key, value in output.items()})
    if isinstance(output, tuple | list):
        return _Form(type(output), [_take_apart(value, parts) for value in output])
    return _Form(None, output)  # a cache of keys and values, or None


def _put_together(form: Any, parts: Iterator[Tensor]) -> Any:
    if form is Tensor:
        return next(parts)
    if form.kind is None:
        return form.inside
    if isinstance(form.inside, dict):
        return form.kind(**{key: _put_together(value, parts) for key, value in form.inside.items()})
    return form.kind(_put_together(value, parts) for value in form.inside)
