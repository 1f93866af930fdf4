"""Features: what the network has at a cache point, one tensor for each part of the point."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["Feature", "Signature", "Widths", "signature", "widths"]

Feature = tuple[Tensor, ...]
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
    if isinstance(value, torch.Size | tuple | list):
        return tuple(signature(item) for item in value)
    if isinstance(value, dict):
        return tuple((key, signature(item)) for key, item in value.items())
    return (value,) if value is None or isinstance(value, str | bool) else ()
