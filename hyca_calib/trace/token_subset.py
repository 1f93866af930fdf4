"""Which tokens are looked at: for the statistics all, or a random subset of very many; few are stored whole."""

from __future__ import annotations

import numpy as np

__all__ = ["choose_tokens"]


def choose_tokens(num_tokens: int, keep: int, seed: int) -> np.ndarray:
    """A random subset of `keep` token indices, ascending; all of them if there are no more."""
    if keep >= num_tokens:
        return np.arange(num_tokens)
    return np.sort(np.random.default_rng(seed).choice(num_tokens, keep, replace=False))
