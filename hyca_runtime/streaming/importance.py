r"""Which keys matter, and which repeat others (FlowCache, arXiv 2602.10825).

Of each head a key's *importance* is the attention that it gets, its *redundancy* how alike it is to the others; those
with the largest :math:`\lambda\,\mathrm{importance} - (1 - \lambda)\,\mathrm{redundancy}` are kept.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional


def importance(queries: Tensor, keys: Tensor, pool: int = 7) -> Tensor:
    r"""Mean attention to each key, the largest of its neighbours'.

    .. math:: \max_{|j' - j| \le r} \frac1n \sum_i \mathrm{softmax}_{j'}(q_i \cdot k_{j'} / \sqrt d)

    Args:
        queries: ``(batch, query head, query, channel)``; where several query heads share one of the keys, the largest
            of their products counts.
        keys: ``(batch, head, token, channel)``.
        pool: how many neighbours, 2 r + 1; 1 for none.

    Returns:
        ``(batch, head, token)``, in float32 or as precise as the keys.
    """
    scale, heads = 1 / math.sqrt(keys.shape[-1]), keys.shape[1]
    keys = keys.to(_precise(keys))
    shared = queries.to(keys.dtype).reshape(len(queries), heads, -1, *queries.shape[2:])
    products = (shared @ keys[:, :, None].transpose(-1, -2)).amax(2) * scale
    mean = products.softmax(-1).mean(-2)
    return functional.max_pool1d(mean, pool, stride=1, padding=pool // 2) if pool > 1 else mean


def redundancy(keys: Tensor) -> Tensor:
    r"""How alike each key is to the others of its head.

    .. math:: \mathrm{softmax}_j\Bigl(\frac1L \sum_{i \ne j} \cos(k_i, k_j)\Bigr)

    The sum is :math:`\hat k_j \cdot \sum_i \hat k_i - 1`, so no ``token x token`` matrix is made.

    Args:
        keys: ``(batch, head, token, channel)``.

    Returns:
        ``(batch, head, token)``.
    """
    unit = functional.normalize(keys.to(_precise(keys)), dim=-1)
    alike = (unit * unit.sum(2, keepdim=True)).sum(-1) - unit.square().sum(-1)
    return (alike / keys.shape[2]).softmax(-1)


def scores(queries: Tensor, keys: Tensor, weight: float, pool: int = 7) -> Tensor:
    """What keys are kept by, ``(batch, head, token)``, the largest first.

    Args:
        weight: of the importance, from 0 to 1; the rest is that of the redundancy.
    """
    found = importance(queries, keys, pool)
    return weight * found - (1 - weight) * redundancy(keys)


def kept_tokens(score: Tensor, count: int, unit: int = 1) -> Tensor:
    """The tokens ``(batch, head, count)`` of each head that are kept, ascending.

    Args:
        score: ``(batch, head, token)``.
        unit: so many neighbouring tokens (a frame, a chunk) have their mean score together; a last unit that `count`
            does not hold whole gives its first tokens.
    """
    tokens = score.shape[-1]
    if unit == 1:
        return score.topk(count, dim=-1).indices.sort(-1).values
    padded = functional.pad(score, (0, -tokens % unit), value=math.nan)
    rank = (
        padded.reshape(*padded.shape[:2], -1, unit)
        .nanmean(-1)
        .argsort(dim=-1, descending=True, stable=True)
        .argsort(-1)
    )
    places = rank.repeat_interleave(unit, -1)[..., :tokens] * tokens + torch.arange(tokens, device=score.device)
    return places.argsort(-1)[..., :count].sort(-1).values


def _precise(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)
