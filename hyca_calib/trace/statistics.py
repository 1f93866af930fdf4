r"""Gram statistics: all that any linear forecaster's error depends on.

For channel c and steps s, t of one guidance branch

.. math:: G_c[s, t] = \sum_{\text{samples, tokens}} F_c[s]\, F_c[t].

The squared error of predicting step t by weights w over steps h is then
:math:`w^T G_c[h,h] w - 2 w^T G_c[h,t] + G_c[t,t]`, whatever w, h and t: no feature is read again.
These are differences of nearly equal numbers, so sums run in float64 where the device has it. The
matrices are symmetric: on the way to the disk they are their upper triangles, row by row.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from hyca_runtime.feature import Feature

BLOCK_BYTES = 256 * 1024**2
"""Working memory: channels are taken in blocks that fit."""


def choose_tokens(num_tokens: int, keep: int, seed: int) -> np.ndarray:
    """A random subset of `keep` token indices, ascending; all of them if there are no more."""
    if keep >= num_tokens:
        return np.arange(num_tokens)
    return np.sort(np.random.default_rng(seed).choice(num_tokens, keep, replace=False))


def num_pairs(steps: int) -> int:
    """Entries of an upper triangle."""
    return steps * (steps + 1) // 2


def packed_gram(features: Sequence[Sequence[Feature]], samples: Tensor, scales: Sequence[Sequence[float]]) -> Tensor:
    """Gram matrices summed over samples and tokens, ``(branch, channel, pair)``.

    Args:
        features: ``[branch][step]``, one ``(sample, token, channel)`` for each part.
        samples: indices of those that count.
        scales: ``[branch][part]``, tokens there are for each one that is in `features`.
    """
    return torch.stack(
        [
            torch.cat([s * _packed(part, samples) for s, part in zip(of, zip(*steps, strict=True), strict=True)])
            for of, steps in zip(scales, features, strict=True)
        ]
    )


def unpacked_gram(packed: np.ndarray, steps: int) -> np.ndarray:
    """``(..., pair)`` to ``(..., step, step)``."""
    full = np.empty((*packed.shape[:-1], steps, steps), dtype=packed.dtype)
    rows, columns = np.triu_indices(steps)
    full[..., rows, columns] = packed
    full[..., columns, rows] = packed
    return full


def sampling_error(features: Sequence[Sequence[Feature]], num_tokens: Sequence[Sequence[int]]) -> float:
    """Standard error of a channel's energy that comes of looking at a random subset of its tokens.

    The median over branches, steps and channels, relative to the energy, from the spread of the tokens that are
    looked at (Cochran, Sampling Techniques, eq. 2.20, with the correction for finite populations). Channels with NaN
    or infinity do not count; if all have them, it is 1, the whole of the energy.

    Args:
        features: ``[branch][step]``, one ``(sample, token, channel)`` for each part.
        num_tokens: ``[branch][part]``, how many there are.
    """
    pairs = [
        (part, count)
        for steps, counts in zip(features, num_tokens, strict=True)
        for feature in steps
        for part, count in zip(feature, counts, strict=True)
    ]
    if all(part.shape[1] >= count for part, count in pairs):
        return 0.0
    errors = torch.cat([_relative_error(part, count) for part, count in pairs])
    finite = errors[errors.isfinite()]
    return float(finite.median()) if len(finite) else 1.0


def _relative_error(part: Tensor, num_tokens: int) -> Tensor:
    """``(channel,)``."""
    squares = part.double().square().mean(0)  # (token, channel)
    seen = len(squares)
    spread = squares.std(0, correction=min(1, seen - 1)) / squares.mean(0).clamp(min=1e-300)
    return spread * math.sqrt((1 - seen / num_tokens) / seen)


def _packed(steps: Sequence[Tensor], samples: Tensor) -> Tensor:
    """``(channel, pair)`` of one part of one branch."""
    dtype = torch.float32 if steps[0].device.type == "mps" else torch.float64
    rows_each = steps[0].shape[1] * len(samples)
    block = max(1, BLOCK_BYTES // max(1, len(steps) * rows_each * dtype.itemsize))
    upper = torch.triu_indices(len(steps), len(steps), device=steps[0].device)
    found = []
    for begin in range(0, steps[0].shape[2], block):
        picked = [step[samples, :, begin : begin + block].flatten(0, 1).T for step in steps]
        rows = torch.stack(picked, 1).to(dtype)  # (channel, step, sample * token)
        found.append((rows @ rows.transpose(1, 2))[:, upper[0], upper[1]])
    return torch.cat(found)
