"""Caches with a fixed schedule, told to compute given steps, or as many: to compare their time, not their pictures."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from functools import partial
from typing import Any

from hyca_calib.peers.base import Peer
from hyca_calib.peers.caches import taylorseer_peers
from hyca_calib.peers.dual_block import masked

__all__ = ["peers_at_steps"]


def peers_at_steps(pipe: Any, num_steps: int, computed: Sequence[int]) -> list[Peer]:
    """diffusers' TaylorSeer at the interval that computes about as many, and cache-dit at those very steps."""
    interval = max(2, round(num_steps / len(computed)))
    ending = f" N={interval} O=1 W=1"
    found = [peer for peer in taylorseer_peers(pipe, num_steps) if peer.name.endswith(ending)]
    if importlib.util.find_spec("cache_dit") is not None:
        mask = [int(step in computed) for step in range(num_steps)]
        for calibrator in ("", " + TaylorSeer"):
            applied = partial(masked, pipe, num_steps, calibrator, mask)
            found.append(Peer(f"DBCache{calibrator}, the same steps", f"DBCache{calibrator}", num_steps, applied))
    return found
