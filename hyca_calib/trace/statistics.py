r"""Gram statistics: all that any linear forecaster's error depends on.

For channel c and steps s, t, of one guidance branch or of two,

.. math:: G_c[s, t] = \sum_{\text{samples, tokens}} F_c[s]\, F_c[t].

The squared error of predicting step t by weights w over steps h is then
:math:`w^T G_c[h,h] w - 2 w^T G_c[h,t] + G_c[t,t]`, whatever w, h and t: no feature is read again.
The joint matrix is over all steps of all branches, and last the constant 1, whose products are the sums of the
features, and with itself the number of tokens. Branches with other tokens have no products with each other: they are
as if each were zero on the other's tokens.
These are differences of nearly equal numbers, so sums run in float64 where the device has it. The
matrices are symmetric: on the way to the disk they are their upper triangles, row by row.
"""

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


def num_pairs(size: int) -> int:
    """Entries of an upper triangle."""
    return size * (size + 1) // 2


def joint_size(branches: int, steps: int) -> int:
    """Rows of the joint matrix: every step of every branch, and the constant."""
    return branches * steps + 1


def comparable(tokens: Sequence[Sequence[np.ndarray]], num_tokens: Sequence[Sequence[int]]) -> list[list[list[int]]]:
    """Branches that hold the same tokens, and so have inner products, ``[part][group]``.

    Args:
        tokens, num_tokens: ``[branch][part]``, which tokens there are, and of how many.
    """
    found = []
    for part in range(len(num_tokens[0])):
        groups: dict[tuple[int, bytes], list[int]] = {}
        for branch, (seen, counts) in enumerate(zip(tokens, num_tokens, strict=True)):
            groups.setdefault((counts[part], seen[part].tobytes()), []).append(branch)
        found.append(list(groups.values()))
    return found


def packed_gram(
    features: Sequence[Sequence[Feature]],
    samples: Tensor,
    scales: Sequence[Sequence[float]],
    groups: Sequence[Sequence[Sequence[int]]],
) -> Tensor:
    """Joint Gram matrices summed over samples and tokens, ``(channel, pair)``; branch by branch, step by step.

    Args:
        features: ``[branch][step]``, one ``(sample, token, channel)`` for each part.
        samples: indices of those that count.
        scales: ``[branch][part]``, tokens there are for each one that is in `features`.
        groups: see `comparable`.
    """
    parts = []
    for number, of in enumerate(groups):
        rows = [[feature[number] for feature in steps] for steps in features]
        parts.append(_packed(rows, samples, [scale[number] for scale in scales], of))
    return torch.cat(parts)


def unpacked_gram(packed: np.ndarray, size: int) -> np.ndarray:
    """``(..., pair)`` to ``(..., size, size)``."""
    full = np.empty((*packed.shape[:-1], size, size), dtype=packed.dtype)
    rows, columns = np.triu_indices(size)
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


def _packed(
    branches: Sequence[Sequence[Tensor]], samples: Tensor, scales: Sequence[float], groups: Sequence[Sequence[int]]
) -> Tensor:
    """``(channel, pair)`` of one part."""
    like, steps = branches[0][0], len(branches[0])
    size = joint_size(len(branches), steps)
    dtype = torch.float32 if like.device.type == "mps" else torch.float64
    rows_each = len(samples) * max(of[0].shape[1] for of in branches)
    block = max(1, BLOCK_BYTES // max(1, size * max(rows_each, size) * dtype.itemsize))
    upper = torch.triu_indices(size, size, device=like.device)
    found = []
    for begin in range(0, like.shape[2], block):
        joint = torch.zeros(min(block, like.shape[2] - begin), size, size, dtype=dtype, device=like.device)
        for group in groups:
            every = (step for branch in group for step in branches[branch])
            picked = [step[samples, :, begin : begin + block].flatten(0, 1).T for step in every]
            rows = torch.stack([*picked, torch.ones_like(picked[0])], 1).to(dtype)  # (channel, row, sample * token)
            at = [branch * steps + step for branch in group for step in range(steps)] + [size - 1]
            places = torch.tensor(at, device=like.device)
            joint[:, places[:, None], places] += scales[group[0]] * (rows @ rows.transpose(1, 2))
        found.append(joint[:, upper[0], upper[1]])
    return torch.cat(found)
