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


def repeats(args: tuple[Any, ...], kwargs: dict[str, Any], parts: int) -> Tensor:
    """Whether all parts of a call's batch are of the same latents; on their device, which is not waited for."""
    latents = _latents(args, kwargs)
    if parts == 1 or latents is None or len(latents) % parts:
        return torch.tensor(False)
    each = latents.reshape(parts, -1, *latents.shape[1:])
    return same(each[1:], each[:1])


def same(one: Tensor, other: Tensor) -> Tensor:
    """Whether two tensors are equal, NaN as any number; on their device."""
    return torch.isclose(one, other, rtol=0, atol=0, equal_nan=True).all()


def _latents(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """What a call denoises: its hidden states, else the first argument that holds floating numbers."""
    for value in (kwargs.get("hidden_states"), *args, *kwargs.values()):
        members = value if isinstance(value, list | tuple) else [value]
        if members and all(isinstance(member, Tensor) and member.is_floating_point() for member in members):
            alike = isinstance(value, Tensor) or len({member.shape for member in members}) == 1
            return (value if isinstance(value, Tensor) else torch.stack(list(members))) if alike else None
    return None
