"""The weighted sum over the history, the only arithmetic of a predicted step."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from functools import cache

import torch
from torch import Tensor

from hyca_runtime.feature import Feature, Widths
from hyca_runtime.history import History, Past


def weighted_sum(features: Sequence[Tensor], weights: Tensor) -> Tensor:
    """``sum_k weights[k] * features[k]``, differentiable, in float32 and then the features' own dtype.

    Args:
        features: tensors of one shape, newest first.
        weights: float32 ``(len(features), ...)``, each row broadcastable to a feature.

    Cost: ``2 * len(features)`` FLOPs for each number of a feature.
    """
    total = features[0].float() * weights[0]
    for feature, weight in zip(features[1:], weights[1:], strict=True):
        total = total.addcmul(feature.float(), weight)
    return total.to(features[0].dtype)


def split_weights(weights: Tensor, parts: Widths, ndims: Sequence[int], channel_axis: int) -> tuple[Tensor, ...]:
    """Weights ``(tap, channel)`` cut into parts and made broadcastable: ``(tap, 1, ..., width, ..., 1)``."""
    shaped = []
    for piece, ndim in zip(torch.split(weights, list(parts), dim=1), ndims, strict=True):
        shape = [len(piece), *([1] * ndim)]
        shape[1 + channel_axis % ndim] = piece.shape[1]
        shaped.append(piece.reshape(shape).contiguous())
    return tuple(shaped)


def by_sample(weights: tuple[Tensor, ...], rows: Tensor | None) -> tuple[Tensor, ...]:
    """`weights` of each part with rows ``(tap, sample)`` for all channels alike; as they are where there are none."""
    if rows is None:
        return weights
    found = []
    for piece in weights:
        shaped = rows.to(piece).reshape(*rows.shape, *([1] * (piece.ndim - 2)))
        found.append(shaped.expand(*rows.shape, *piece.shape[2:]).contiguous())
    return tuple(found)


def forecast(past: Past | History, weights: Sequence[Tensor]) -> Feature:
    """The weighted sum of every part of the newest features, from the ring they lie in.

    Args:
        weights: of each part, float32 and broadcastable to it, newest tap first.

    Memory: the result; on a CPU in half precision also a float32 copy of it.
    """
    slots = past.slots
    pairs = zip(past.buffers, weights, strict=True)
    return Feature((_kernel(b.device.type)(b, slots[: len(w)], w, b.dtype) for b, w in pairs), past.form)


def joint_forecast(terms: Sequence[tuple[Past, Sequence[Tensor]]], shifts: Sequence[Sequence[Tensor]] = ()) -> Feature:
    """The sum of `forecast` over several pasts of one shape, and of constants, rounded once.

    Args:
        terms: pasts with their weights; the first one's form is the result's.
        shifts: of each part, ``(1, ...)`` and broadcastable to it.

    Memory: the result and two float32 copies of it.
    """
    found, first = [], terms[0][0]
    for part, buffer in enumerate(first.buffers):
        kernel = _kernel(buffer.device.type)
        sums = (kernel(past.buffers[part], past.slots[: len(w[part])], w[part], torch.float32) for past, w in terms)
        total = next(sums)
        for other in sums:
            total += other
        for shift in shifts:
            total += shift[part][0]
        found.append(total.to(buffer.dtype))
    return Feature(found, first.form)


def _vectorised(buffer: Tensor, slots: Sequence[int], weights: Tensor, dtype: torch.dtype) -> Tensor:
    total = buffer[slots[0]] * weights[0]  # float32: half precision is promoted
    for slot, weight in zip(slots[1:], weights[1:], strict=True):
        total.addcmul_(buffer[slot], weight)
    return total.to(dtype)


@cache
def _kernel(device: str) -> Callable[[Tensor, Sequence[int], Tensor, torch.dtype], Tensor]:
    """One pass over memory where Triton is at hand, else one for each tap."""
    if device == "cuda" and importlib.util.find_spec("triton") is not None:
        from hyca_runtime.combine_triton import fused_sum

        return fused_sum
    return _vectorised
