"""What a user would pick instead, as context managers over the same pipeline.

Fewer steps, better samplers, the caches of diffusers, FORA and SmoothCache, and cache-dit if it is installed. Every
peer is given a sweep of its own settings, spacings of the noise levels and reasonable adaptations included;
comparisons are with the best of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hyca_calib.peers.base import Peer
from hyca_calib.peers.broadcast import broadcast_peers
from hyca_calib.peers.caches import cache_peers
from hyca_calib.peers.dual_block import dual_block_peers
from hyca_calib.peers.layer_reuse import layer_peers
from hyca_calib.peers.samplers import sampler_peers
from hyca_calib.workload import Job

__all__ = ["Peer", "peers"]


def peers(pipe: Any, jobs: Sequence[Job], num_steps: int) -> list[Peer]:
    """Every setting of every peer, against a full run of `num_steps`; caches that need it are calibrated on `jobs`."""
    kinds = (sampler_peers, cache_peers, broadcast_peers, layer_peers, dual_block_peers)
    return [peer for kind in kinds for peer in kind(pipe, jobs, num_steps)]
