"""The computed features one stream remembers."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from hyca_runtime.feature import Feature


class Past(NamedTuple):
    """Features that a forecast may weigh.

    Attributes:
        positions: where in the plan they were computed, newest first.
        buffers: one ``(depth, *shape)`` for each part; the k-th newest feature is in slot ``slots[k]``.
        form: of the newest feature.
    """

    positions: tuple[float, ...]
    buffers: tuple[Tensor, ...]
    slots: list[int]
    form: Any = None

    def is_like(self, other: Past) -> bool:
        """Whether features of both can be added."""
        return [b.shape[1:] for b in self.buffers] == [b.shape[1:] for b in other.buffers]

    def before(self, position: float, live: bool = False) -> Past:
        """Without what was computed at `position` or later; with that of `position` itself if it is live."""
        later = sum(p > position or (p == position and not live) for p in self.positions)
        return self._replace(positions=self.positions[later:], slots=self.slots[later:]) if later else self


class History:
    """The last `depth` computed features and their positions, newest first.

    They lie in one buffer ``(depth, *shape)`` for each part, which is a ring: a feature is copied
    in once and read in place, so a forecast allocates nothing but its result. The copy also keeps
    a feature safe from CUDA graphs, which reuse the memory of their outputs.

    Attributes:
        form: of the newest feature.
        learnt: what adaptive solvers found in the features that are there now.
    """

    def __init__(self, depth: int) -> None:
        self._depth = depth
        self._positions: list[float] = []
        self._buffers: tuple[Tensor, ...] = ()
        self._views: tuple[tuple[Tensor, ...], ...] = ()
        self._likes: list[tuple[object, ...]] = []
        self._newest = 0
        self.form: Any = None
        self.learnt: dict[object, Any] = {}

    def push(self, position: float, feature: Feature) -> bool:
        """Remember `feature`; a change of shape, dtype or device drops what was there.

        Returns:
            Whether memory was taken for it: it is the first of its kind.
        """
        likes = [_like(part) for part in feature]
        if starts := likes != self._likes:
            self.clear()
            self._likes = likes
            self._buffers = tuple(torch.empty((self._depth, *p.shape), dtype=p.dtype, device=p.device) for p in feature)
            self._views = tuple(buffer.unbind() for buffer in self._buffers)
        self._newest = (self._newest - 1) % self._depth
        for part, views in zip(feature, self._views, strict=True):
            views[self._newest].copy_(part.detach() if part.requires_grad else part)
        self._positions = [position, *self._positions[: self._depth - 1]]
        self.form = feature.form
        self.learnt.clear()
        return starts

    def carry(self, position: float, better: History) -> bool:
        """Move the feature of a position, and all newer ones, by what `better` has there beside it.

        Returns:
            Whether both have one there, of the same shapes.
        """
        if self._likes != better._likes or not {position} <= {*self._positions} & {*better._positions}:
            return False
        place, there = self._positions.index(position), better.features[better.positions.index(position)]
        moved = self.features[: place + 1]
        shifts = [theirs - mine for theirs, mine in zip(there, moved[-1], strict=True)]
        for feature in moved:
            for part, shift in zip(feature, shifts, strict=True):
                part.add_(shift)
        self.learnt.clear()
        return True

    def keep_last(self, feature: Feature) -> None:
        """Cut the features to their last tokens, as many as `feature` has: before them lie those of a filled cache."""
        if not self._likes or len(feature) != len(self._buffers):
            return
        cut = tuple(_last(buffer, part.shape) for buffer, part in zip(self._buffers, feature, strict=True))
        self._buffers, self._views = cut, tuple(buffer.unbind() for buffer in cut)
        self._likes = [_like(buffer[0]) for buffer in cut]

    def clear(self) -> None:
        """Forget everything and give the memory back."""
        self._positions, self._likes, self.form = [], [], None
        self._buffers = self._views = ()
        self.learnt.clear()

    @property
    def positions(self) -> tuple[float, ...]:
        """Where in the plan the features were computed: a step of it, or between two."""
        return tuple(self._positions)

    @property
    def buffers(self) -> tuple[Tensor, ...]:
        """One ``(depth, *shape)`` for each part; the k-th newest feature is in slot `slots[k]`."""
        return self._buffers

    @property
    def slots(self) -> list[int]:
        return [(self._newest + k) % self._depth for k in range(len(self._positions))]

    def past(self, part: int = 0, of: int = 1) -> Past:
        """What is there, or one of as many equal parts along the batch."""
        buffers = self._buffers
        if of > 1:
            sizes = [buffer.shape[1] // of for buffer in buffers]
            buffers = tuple(b.narrow(1, part * size, size) for b, size in zip(buffers, sizes, strict=True))
        return Past(self.positions, buffers, self.slots, self.form)

    @property
    def features(self) -> tuple[Feature, ...]:
        """Views of the features, newest first."""
        return tuple(Feature((views[slot] for views in self._views), self.form) for slot in self.slots)

    @property
    def nbytes(self) -> int:
        return sum(buffer.nbytes for buffer in self._buffers)


def _last(buffer: Tensor, shape: torch.Size) -> Tensor:
    """The last entries of each axis of a buffer ``(depth, ...)`` that is longer than in `shape`."""
    for axis, size in enumerate(shape, start=1):
        if buffer.ndim == len(shape) + 1 and buffer.shape[axis] > size:
            buffer = buffer.narrow(axis, buffer.shape[axis] - size, size)
    return buffer.contiguous()


def _like(tensor: Tensor) -> tuple[object, ...]:
    return (tensor.shape, tensor.dtype, tensor.device)
