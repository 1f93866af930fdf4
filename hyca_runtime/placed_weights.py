"""Weights where the features are."""

from __future__ import annotations

from collections.abc import Callable, Hashable

import numpy as np
import torch
from torch import Tensor

from hyca_runtime.combine import split_weights
from hyca_runtime.history import History, Past

MAX_ROWS = 4096
"""Rows of weights kept on the device; a plan needs one for each predicted step and shape."""


class PlacedWeights:
    """Rows of weights on the device of the features they weigh, each made once."""

    def __init__(self) -> None:
        self._kept: dict[Hashable, tuple[Tensor, ...]] = {}

    def get(
        self, key: Hashable, rows: Callable[[], np.ndarray], past: History | Past, channel_axis: int
    ) -> tuple[Tensor, ...]:
        """Weights for each part of a point.

        Args:
            key: of the rows.
            rows: gives them, ``(tap, channel)``.
        """
        buffers = past.buffers
        key = (key, *[(buffer.device, buffer.shape) for buffer in buffers])
        found = self._kept.get(key)
        if found is None:
            parts = tuple(buffer[0].shape[channel_axis] for buffer in buffers)
            ndims = [buffer.ndim - 1 for buffer in buffers]
            pieces = split_weights(torch.from_numpy(rows()), parts, ndims, channel_axis)
            if len(self._kept) >= MAX_ROWS:
                self._kept.clear()
            found = tuple(piece.to(b.device) for piece, b in zip(pieces, buffers, strict=True))
            self._kept[key] = found
        return found
