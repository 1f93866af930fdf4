"""Guidance branches that share one call, stacked along its batch."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from hyca_runtime.feature import Feature

MAX_STACKED = 8
OF_TOKENS = frozenset({"img_ids", "txt_ids"})
"""Arguments that, with two dimensions, have no batch, and perhaps as many tokens as it has samples."""

Arguments = tuple[tuple[Any, ...], dict[str, Any]]
"""Arguments by place and by name."""


def stacked_labels(branch: str, parts: int) -> tuple[str, ...]:
    """The names of the branches that calls of `branch` hold: itself if there is one, else "1/2", "2/2" ..."""
    if parts == 1:
        return (branch,)
    return tuple(f"{branch} {i + 1}/{parts}".strip() for i in range(parts))


def repeats(args: tuple[Any, ...], kwargs: dict[str, Any], parts: int) -> Tensor:
    """Whether all parts of a call's batch are of the same latents; on their device, which is not waited for."""
    latents = latents_of(args, kwargs)
    if parts == 1 or latents is None or len(latents) % parts:
        return torch.tensor(False)
    each = latents.reshape(parts, -1, *latents.shape[1:])
    return same(each[1:], each[:1])


def same(one: Tensor, other: Tensor) -> Tensor:
    """Whether two tensors are equal, NaN as any number; on their device."""
    return torch.isclose(one, other, rtol=0, atol=0, equal_nan=True).all()


def parts_of(args: tuple[Any, ...], kwargs: dict[str, Any], parts: int) -> list[Arguments]:
    """The arguments of a call for each part of its batch; what does not count its samples is the same for all.

    Args:
        parts: as many as `repeats` has found.
    """
    samples = _denoised(args, kwargs)
    batch, listed = len(samples), not isinstance(samples, Tensor)
    shared = {name for name in OF_TOKENS & kwargs.keys() if getattr(kwargs[name], "ndim", 0) == 2}

    def counts(value: Any) -> bool:
        if isinstance(value, Tensor):
            return value.ndim > 0 and len(value) == batch
        return listed and isinstance(value, list | tuple) and len(value) == batch and _are_tensors(value)

    def rows(part: int, value: Any) -> Any:
        return value[part * batch // parts : (part + 1) * batch // parts] if counts(value) else value

    def of(part: int, argument: Any) -> Any:
        return tree_map(partial(rows, part), argument, is_leaf=counts)

    return [
        (
            tuple(of(part, value) for value in args),
            {name: value if name in shared else of(part, value) for name, value in kwargs.items()},
        )
        for part in range(parts)
    ]


def joined(outputs: Sequence[Any], axis: int = 0) -> Any:
    """What a call would have answered whose parts answered so, in order; lists of tensors are of samples.

    Args:
        axis: along which the call is parted.
    """
    flat = [tree_flatten(output, is_leaf=lambda value: isinstance(value, list)) for output in outputs]
    columns = zip(*(leaves for leaves, _ in flat), strict=True)
    return tree_unflatten([_one_after_the_other(column, axis) for column in columns], flat[0][1])


def parted(feature: Feature | None, parts: int) -> list[Feature | None]:
    """The feature of each part of a call's batch; None where there are no such parts."""
    if feature is None or any(part.ndim == 0 or len(part) % parts for part in feature):
        return [None] * parts
    return [Feature(pieces, feature.form) for pieces in zip(*(part.chunk(parts) for part in feature), strict=True)]


def _one_after_the_other(pieces: Sequence[Any], axis: int) -> Any:
    if isinstance(pieces[0], list):
        return [member for piece in pieces for member in piece]
    return torch.cat(list(pieces), axis) if isinstance(pieces[0], Tensor) and pieces[0].ndim else pieces[0]


def latents_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """What a call denoises, stacked along its batch; None where each sample has another shape."""
    samples = _denoised(args, kwargs)
    if isinstance(samples, Tensor):
        return samples
    return torch.stack(list(samples)) if len({member.shape for member in samples}) == 1 else None


def _denoised(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | Sequence[Tensor]:
    """The hidden states, else the first argument that holds floating numbers; one tensor or one for each sample."""
    for value in (kwargs.get("hidden_states"), *args, *kwargs.values()):
        members = value if isinstance(value, list | tuple) else [value]
        if members and _are_tensors(members) and all(member.is_floating_point() for member in members):
            return value  # type: ignore[no-any-return]
    return ()


def _are_tensors(values: Sequence[Any]) -> bool:
    """Whether all are tensors."""
    return all(isinstance(value, Tensor) for value in values)
