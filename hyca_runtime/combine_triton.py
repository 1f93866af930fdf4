"""The weighted sum in one pass over GPU memory; imported only where Triton is."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["fused_sum"]

BLOCK = 1024


@triton.jit  # type: ignore[untyped-decorator,unused-ignore]
def _fused_sum(  # type: ignore[no-untyped-def]
    buffer, weights, out, numel, channels, inner, newest, taps: tl.constexpr, depth: tl.constexpr, block: tl.constexpr
):
    at = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = at < numel
    channel = (at // inner) % channels
    total = tl.zeros((block,), dtype=tl.float32)
    for k in tl.static_range(taps):
        slot = ((newest + k) % depth).to(tl.int64)
        feature = tl.load(buffer + slot * numel + at, mask=inside, other=0.0).to(tl.float32)
        total += feature * tl.load(weights + k * channels + channel, mask=inside, other=0.0)
    tl.store(out + at, total.to(out.dtype.element_ty), mask=inside)


def fused_sum(buffer: Tensor, slots: Sequence[int], weights: Tensor) -> Tensor:
    """``sum_k weights[k] * buffer[slots[k]]``.

    Args:
        buffer: contiguous ring ``(depth, *shape)``.
        slots: neighbours in the ring, newest first.
        weights: contiguous float32 ``(len(slots), 1, ..., channels, ..., 1)``.
    """
    out = torch.empty(buffer.shape[1:], dtype=buffer.dtype, device=buffer.device)
    channels = weights[0].numel()
    axis = next((i for i, size in enumerate(weights.shape[1:]) if size == channels and size > 1), out.ndim - 1)
    inner = out[(0,) * (axis + 1)].numel() if out.numel() else 1
    grid = (triton.cdiv(out.numel(), BLOCK),)
    _fused_sum[grid](buffer, weights, out, out.numel(), channels, inner, slots[0], len(slots), len(buffer), BLOCK)
    return out
