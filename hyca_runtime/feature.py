"""Features: what the network has at a cache point, one tensor for each part of the point."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Self

from torch import Tensor


class Feature(tuple[Tensor, ...]):
    """The parts, and what the cache point must know to put them back.

    Attributes:
        form: of the cache point that took the feature; opaque to everyone else.
    """

    form: Any

    def __new__(cls, parts: Iterable[Tensor], form: Any = None) -> Self:
        self = super().__new__(cls, parts)
        self.form = form
        return self


Widths = tuple[int, ...]
"""Channels of each part."""

Signature = tuple[Any, ...]
"""Shapes, dtypes and devices of all tensors a network is called with, and its modes."""


def widths(feature: Feature, channel_axis: int) -> Widths:
    """Channels of each part."""
    return tuple(part.shape[channel_axis] for part in feature)


def signature(value: Any) -> Signature:
    """What must be equal for features of two calls to be comparable."""
    if isinstance(value, Tensor):
        return (value.shape, value.dtype, value.device)
    if value is None or isinstance(value, (str, bool)):
        return (value,)
    if isinstance(value, dict):
        return (*value, *[signature(item) for item in value.values()])
    if isinstance(value, (tuple, list)):
        return tuple([signature(item) for item in value])
    return ()
