"""Outputs of blocks, spans of blocks, or layers as a cache point."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from hyca_runtime.attach.block_io import BlockIO, block_io
from hyca_runtime.attach.bound_point import BoundPoint, Proxies
from hyca_runtime.attach.points import Place
from hyca_runtime.attach.proxies import CaptureOutput, CaptureStreams, PassBy, Recall
from hyca_runtime.feature import Feature

Form = tuple[bool, list[bool]]
"""How one call of a module answers: whether with a tensor alone, and which of its outputs are there."""


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
        self.paths = {place.path for place in kept}
        self.places = (*passed_by, *kept)

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
        forms: list[list[Form]] = []
        for watcher in self._watching:  # a network need not call all its modules: Flux 3 has blocks by modality
            forms.append([(alone, [value is not None for value in values]) for alone, values in watcher.captured])
            parts += [value for _, values in watcher.captured for value in values if value is not None]
        self.discard()
        return Feature(parts, forms) if parts else None

    def discard(self) -> None:
        self._watching = []

    def injectors(self, feature: Feature) -> Proxies:
        parts = iter(feature)
        found: list[tuple[Place, nn.Module]] = [(place, PassBy(place.module)) for place in self._passed_by]
        for place, io, calls in zip(self._kept, self._ios, feature.form, strict=True):
            kept = [(alone, tuple(next(parts) if present else None for present in there)) for alone, there in calls]
            if kept:
                found.append((place, Recall(place.module, kept, io)))
        return found
