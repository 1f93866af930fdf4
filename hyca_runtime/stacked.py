"""Guidance branches that share one call, stacked along its batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def stacked_labels(branch: str, parts: int) -> tuple[str, ...]:
    """The names of the branches that calls of `branch` hold: itself if there is one, else "1/2", "2/2" ..."""
    if parts == 1:
        return (branch,)
    return tuple(f"{branch} {i + 1}/{parts}".strip() for i in range(parts))


def are_stacked(args: tuple[Any, ...], kwargs: dict[str, Any], parts: int) -> bool:
    """Whether a call holds so many guidance branches: its first tensor, the latents, has as many equal parts.

    Waits for the device.
    """
    tensors = (value for value in (*args, *kwargs.values()) if isinstance(value, Tensor) and value.ndim > 1)
    latents = next(tensors, None)
    if latents is None or len(latents) % parts or not latents.is_floating_point():
        return False
    first, *others = latents.chunk(parts)
    return all(torch.equal(first, other) for other in others)
