r"""How many tokens of each chunk of the past are kept, and which (PackCache, arXiv 2601.04359).

Attention to the past decays with distance, about as :math:`\rho^d`; a chunk d back gets a share of the budget after
that. As it moves further back it keeps a part of what it kept before, at the same places of the picture.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def halving_shares(window: int) -> tuple[float, ...]:
    """The published shares, ``2 ** -min(d, window - 1)`` of the d-th chunk back, d from 1; they sum to 1."""
    return tuple(2.0 ** -min(d, window - 1) for d in range(1, window + 1))


def decaying_shares(decay: float, window: int) -> tuple[float, ...]:
    """Shares that fall from chunk to chunk by `decay`, a measured one; they sum to 1.

    Args:
        decay: above 0; 1 for equal shares.
    """
    powers = [decay**d for d in range(1, window + 1)]
    return tuple(power / sum(powers) for power in powers)


def quotas(shares: Sequence[float], budget: int, largest: int) -> tuple[int, ...]:
    """Tokens of each chunk back, in sum `budget` or all there are.

    Each gets its share, rounded down; what is over goes to the nearest that are not whole yet.

    Args:
        largest: tokens of a chunk.
    """
    found = [min(largest, int(share * budget + 1e-9)) for share in shares]
    over = budget - sum(found)
    for i, count in enumerate(found):
        more = min(over, largest - count)
        found[i], over = count + more, over - more
    return tuple(found)


def site_order(height: int, width: int) -> Tensor:
    """The tokens ``(height * width,)`` of a frame, such that the first of them are spread over it, however many.

    Every place is visited along a grid that halves its spacing: bits of row and column in turn, the lowest first.
    """
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    key = torch.zeros_like(rows)
    for bit in range(max(height, width).bit_length()):
        key = key * 4 + 2 * ((rows >> bit) & 1) + ((columns >> bit) & 1)
    return key.flatten().argsort(stable=True)


def token_order(frames: int, height: int, width: int) -> Tensor:
    """The tokens of a chunk, those of one place in all its frames together, places as in `site_order`."""
    sites = site_order(height, width)
    return (torch.arange(frames) * height * width + sites[:, None]).flatten()
