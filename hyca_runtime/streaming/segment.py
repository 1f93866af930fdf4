"""Keys and values of some tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Segment(NamedTuple):
    """Keys and values of some tokens of a video.

    Attributes:
        keys, values: ``(batch, head, token, channel)``, the keys rotated.
        places: ``(1, 1, token)`` or, where heads keep tokens of their own, ``(batch, head, token)``; the number of each
            token in the video, frame by frame.
    """

    keys: Tensor
    values: Tensor
    places: Tensor

    @property
    def tokens(self) -> int:
        return self.keys.shape[2]

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self)

    def detached(self) -> Segment:
        """The same without gradients."""
        return self._replace(keys=self.keys.detach(), values=self.values.detach())

    def first(self, count: int) -> Segment:
        """The first tokens, in memory of their own."""
        if count >= self.tokens:
            return self
        return Segment(*(part[:, :, :count].clone() for part in self))

    def taken(self, index: Tensor) -> Segment:
        """The tokens ``(batch, head, kept)`` of each head."""
        wide = index[..., None].expand(-1, -1, -1, self.keys.shape[-1])
        places = self.places.expand(*index.shape[:2], -1)
        return Segment(self.keys.gather(2, wide), self.values.gather(2, wide), places.gather(2, index))

    def sorted_by(self, order: Tensor) -> Segment:
        """The tokens in another order ``(token,)``, the same for all heads."""
        return Segment(*(part.index_select(2, order) for part in self))


def joined(segments: Sequence[Segment]) -> Segment:
    """All tokens, in order."""
    if len(segments) == 1:
        return segments[0]
    heads = max((s.places.shape[:2] for s in segments), key=lambda shape: shape.numel())
    places = torch.cat([s.places.expand(*heads, -1) for s in segments], 2)
    return Segment(torch.cat([s.keys for s in segments], 2), torch.cat([s.values for s in segments], 2), places)
