"""The weighted sum in one pass over GPU memory; imported only where Triton is."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024


@triton.jit(do_not_specialize=["newest"])  # type: ignore[untyped-decorator,unused-ignore]
def _fused_sum(  # type: ignore[no-untyped-def]
    buffer,
    weights,
    out,
    stride,
    numel,
    samples,
    channels,
    inner,
    newest,
    taps: tl.constexpr,
    depth: tl.constexpr,
    per_sample: tl.constexpr,
    block: tl.constexpr,
):
    at = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    inside = at < numel
    column = (at // inner) % channels
    if per_sample:
        column += at // (numel // samples) * channels
    total = tl.zeros((block,), dtype=tl.float32)
    for k in tl.static_range(taps):
        slot = ((newest + k) % depth).to(tl.int64)
        feature = tl.load(buffer + slot * stride + at, mask=inside, other=0.0).to(tl.float32)
        total += feature * tl.load(weights + k * samples * channels + column, mask=inside, other=0.0)
    tl.store(out + at, total.to(out.dtype.element_ty), mask=inside)


def fused_sum(buffer: Tensor, slots: Sequence[int], weights: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """``sum_k weights[k] * buffer[slots[k]]``.

    Args:
        buffer: ring ``(depth, *shape)``, contiguous but for what lies between two of its slots.
        slots: neighbours in the ring, newest first.
        weights: contiguous float32 ``(len(slots), samples or 1, 1, ..., channels, ..., 1)``.
        dtype: of the result; that of the buffer by default.
    """
    out = torch.empty(buffer.shape[1:], dtype=dtype or buffer.dtype, device=buffer.device)
    axes = [i for i, size in enumerate(weights.shape[1:]) if size > 1] or [out.ndim - 1]
    samples, channels = (len(weights[0]) if len(axes) > 1 else 1), weights.shape[1 + axes[-1]]
    inner = out[(0,) * (axes[-1] + 1)].numel() if out.numel() else 1
    counts = buffer.stride(0), out.numel(), samples, channels, inner
    grid = (triton.cdiv(out.numel(), BLOCK),)
    _fused_sum[grid](buffer, weights, out, *counts, slots[0], len(slots), len(buffer), samples > 1, BLOCK)
    return out
