"""The computed features one stream remembers."""

from __future__ import annotations

from collections import deque

from torch import Tensor

__all__ = ["History"]


class History:
    """The last `depth` computed features, newest first, all of one shape, dtype and device."""

    def __init__(self, depth: int) -> None:
        self._entries: deque[tuple[int, Tensor]] = deque(maxlen=depth)

    def push(self, step: int, feature: Tensor) -> None:
        """Remember `feature`; a change of shape, dtype or device drops what was there."""
        feature = feature.detach()
        if feature.untyped_storage().nbytes() > feature.nbytes:
            feature = feature.clone()  # a view would keep the whole text-and-image sequence alive
        if self._entries:
            old = self._entries[0][1]
            if (old.shape, old.dtype, old.device) != (feature.shape, feature.dtype, feature.device):
                self._entries.clear()
        self._entries.appendleft((step, feature))

    def clear(self) -> None:
        self._entries.clear()

    @property
    def steps(self) -> tuple[int, ...]:
        return tuple(step for step, _ in self._entries)

    @property
    def features(self) -> tuple[Tensor, ...]:
        return tuple(feature for _, feature in self._entries)

    @property
    def nbytes(self) -> int:
        return sum(feature.nbytes for _, feature in self._entries)
