"""The keys and values that the chunks of one video attend to, in one guidance branch."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from hyca_runtime.streaming.retention import Finished, Past, Retention, Shape, tokens_of
from hyca_runtime.streaming.rotation import TemporalRotation
from hyca_runtime.streaming.segment import Segment, joined

Observer = Callable[[int, int, Tensor, Segment], None]
"""Told the layer, the chunk, its queries, and all that it attends to."""


class LayerKeys:
    """Those of one layer: of chunks that are being denoised, and of those that are finished.

    Attributes:
        past: what the retention has left of finished chunks.
        live: of each other chunk what its latest computed call made.
    """

    def __init__(self) -> None:
        self.past: Past = ()
        self.live: dict[int, Segment] = {}

    def forget_from(self, chunk: int) -> None:
        """Forget a chunk and those after it."""
        self.past = tuple(of for of in self.past if of.chunk < chunk)
        self.live = {number: segment for number, segment in self.live.items() if number < chunk}

    def finish(self, chunk: int) -> None:
        """Hand the latest keys of a chunk over to the past, in the place of what was there of it."""
        before = tuple(of for of in self.past if of.chunk < chunk)
        self.past = (*before, Finished(chunk, self.live.pop(chunk)))

    def before(self, chunk: int) -> list[Segment]:
        """What is there of the chunks before one, the oldest first."""
        live = [(number, segment) for number, segment in self.live.items() if number < chunk]
        past = [(of.chunk, of.segment) for of in self.past if of.chunk < chunk]
        return [segment for _, segment in sorted([*past, *live], key=lambda pair: pair[0])]

    def move(self, frames: int, rotation: TemporalRotation, anchored: int) -> None:
        """Tell all but the anchors to be so many frames later."""

        def moved(segment: Segment) -> Segment:
            return segment._replace(keys=rotation.moved(segment.keys, frames))

        self.past = tuple(of if of.chunk < anchored else Finished(of.chunk, moved(of.segment)) for of in self.past)
        self.live = {chunk: moved(segment) if chunk >= anchored else segment for chunk, segment in self.live.items()}


class KeyStore:
    """Keys and values of one video by layer; each chunk attends to itself and what is there of those before it.

    Args:
        layers: how many attend.
        retention: what is kept of finished chunks.
        rotation: how keys are turned by time.
        observe: told of every attention, None for nobody.

    Attributes:
        gone: frames that were dropped behind the anchors; chunks after those are told to be so much earlier.
    """

    def __init__(
        self, layers: int, retention: Retention, rotation: TemporalRotation, observe: Observer | None = None
    ) -> None:
        self.layers = [LayerKeys() for _ in range(layers)]
        self._retention, self._rotation = retention, rotation
        self._shape: Shape | None = None
        self.gone, self._observe = 0, observe

    def begin(self, chunk: int) -> None:
        """A chunk begins; what there is of it and those after it is of another video."""
        for layer in self.layers:
            layer.forget_from(chunk)
        if chunk == 0:
            self.gone, self._shape = 0, None

    def finish(self, chunk: int) -> None:
        """A chunk was computed for the last time, without noise."""
        for layer in self.layers:
            layer.finish(chunk)
            if self._shape is not None:
                layer.past = self._retention.settle(layer.past, self._shape)
        past = self.layers[0].past
        gone = self._retention.dropped(past, self._shape) if self._shape is not None else 0
        if gone != self.gone:
            for layer in self.layers:
                layer.move(self.gone - gone, self._rotation, self._retention.anchored)
            self.gone = gone

    def start(self, chunk: int, frames: int) -> int:
        """The frame that a chunk of so many begins at, as its keys and those of the past are told."""
        return chunk * frames - (self.gone if chunk >= self._retention.anchored else 0)

    def exchange(self, at: int, chunk: int, queries: Tensor, own: Segment, shape: Shape) -> Segment:
        """Put a chunk's own keys in, and take all out that it attends to. Gradients reach its own alone.

        Args:
            at: the layer.
            queries: ``(batch, head, token, channel)``, rotated.
            shape: of a whole chunk.
        """
        layer = self.layers[at]
        self._shape = self._shape or shape
        if layer.past and layer.past[-1].chunk < chunk:
            layer.past = self._retention.thin(layer.past, queries, shape)
        layer.live[chunk] = own.detached()
        seen = joined([*layer.before(chunk), own])
        if self._observe is not None:
            self._observe(at, chunk, queries, seen)
        return seen

    @property
    def finished_tokens(self) -> int:
        """Tokens that each head of the first layer keeps of finished chunks."""
        return tokens_of(self.layers[0].past)

    @property
    def nbytes(self) -> int:
        past = sum(of.segment.nbytes for layer in self.layers for of in layer.past)
        return past + sum(segment.nbytes for layer in self.layers for segment in layer.live.values())
