"""How attention to the past decays, as it was measured."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from hyca_runtime.streaming.segment import Segment


def attention_by_distance(queries: Tensor, keys: Tensor, chunks: Tensor, now: int) -> Tensor:
    """Mean share of attention that queries of one chunk give to each chunk, the present one first.

    Args:
        queries: ``(batch, head, query, channel)``, of the chunk `now`.
        keys: ``(batch, head, token, channel)``, rotated as the queries are.
        chunks: ``(token,)``, the chunk of every key, at most `now`.

    Returns:
        ``(now + 1,)`` in float64; the shares sum to 1.
    """
    wide = torch.float32 if queries.device.type == "mps" else torch.float64
    products = (queries.to(wide) @ keys.to(wide).transpose(-1, -2)) / math.sqrt(keys.shape[-1])
    mass = products.softmax(-1).mean((0, 1, 2))
    found = torch.zeros(now + 1, dtype=torch.float64)
    return found.index_add_(0, now - chunks.cpu(), mass.cpu().double())


def fitted_decay(masses: Sequence[Sequence[float]]) -> float:
    r"""The :math:`\rho` of :math:`\mu_d = C \rho^d` that fits measured shares of attention best.

    By least squares on their logarithms; every chunk that looked back has a C of its own.

    Args:
        masses: of each such chunk the shares of the chunks 1, 2 ... back; shorter than two they say nothing.

    Raises:
        ValueError: nobody looked back two chunks.
    """
    slopes = products = 0.0
    for row in masses:
        if len(row) > 1:
            logs, distance = np.log(np.maximum(row, 1e-30)), np.arange(len(row), dtype=np.float64)
            centred = distance - distance.mean()
            slopes, products = slopes + float(centred @ centred), products + float(centred @ logs)
    if not slopes:
        raise ValueError("expected attention to two chunks of the past or more, got none; let more chunks look back")
    return math.exp(products / slopes)


class DecayMeter:
    """Measures the attention of chunks to those before them, layer by layer; an `Observer` of key stores.

    Of every call that computes a chunk the shares of attention are kept. Nothing must have been taken from the past.

    Attributes:
        shares: by layer, of each call those of the chunk itself and of the chunks 1, 2 ... back.
    """

    def __init__(self) -> None:
        self.shares: dict[int, list[list[float]]] = defaultdict(list)

    def __call__(self, layer: int, chunk: int, queries: Tensor, seen: Segment) -> None:
        chunks = seen.places[0, 0] // queries.shape[2]
        self.shares[layer].append(attention_by_distance(queries, seen.keys, chunks, chunk).tolist())

    def means(self, layer: int) -> list[float]:
        """The mean share of each distance, over the calls that looked back so far."""
        rows = self.shares[layer]
        longest = max(map(len, rows), default=0)
        return [float(np.mean([row[d] for row in rows if len(row) > d])) for d in range(longest)]

    def decay(self, layer: int) -> float:
        """The fitted decay from chunk to chunk of the past.

        Raises:
            ValueError: nobody looked back two chunks.
        """
        return fitted_decay([row[1:] for row in self.shares[layer]])
