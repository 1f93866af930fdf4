"""The caches of diffusers, each with a wide sweep of its settings."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

from hyca_calib.peers.base import Peer
from hyca_calib.peers.cacheable import cacheable
from hyca_calib.peers.magnitude import magnitude_ratios
from hyca_calib.workload import Job
from hyca_runtime.attach.points import find_blocks, find_transformer

__all__ = ["cache_peers", "cached", "taylorseer_peers"]

INTERVALS, WARMUPS, ORDERS = range(2, 10), (3, 1, 2), (1, 2)
FIRST_BLOCK = (0.03, 0.05, 0.08, 0.10, 0.12, 0.15, 0.20, 0.25, 0.30, 0.35, 0.45, 0.60, 0.80, 1.2)
MAGNITUDE = ((0.06, 3), (0.12, 4), (0.24, 5), (0.5, 6), (0.5, 8), (1.0, 10), (2.0, 12), (4.0, 16))
RETENTIONS = (0.02, 0.06, 0.1, 0.2)
PROJECTION = r"proj_out(_2)?"
"""The module that makes the network's output: FLUX's lite mode knows it by the first name, DiT has the second."""


def cache_peers(pipe: Any, jobs: Sequence[Job], num_steps: int) -> list[Peer]:
    """Every setting of TaylorSeer, FirstBlockCache and MagCache; the last is calibrated on `jobs` when first used."""
    others = (("FirstBlockCache", _first_block()), ("MagCache", _magnitude(pipe, jobs, num_steps)))
    return taylorseer_peers(pipe, num_steps) + [
        Peer(name, family, num_steps, partial(cached, pipe, config))
        for family, settings in others
        for name, config in settings
    ]


def taylorseer_peers(pipe: Any, num_steps: int) -> list[Peer]:
    """Every setting of TaylorSeer."""
    return [Peer(name, "TaylorSeer", num_steps, partial(cached, pipe, config)) for name, config in _taylorseer(pipe)]


@contextmanager
def cached(pipe: Any, config: Callable[[], Any]) -> Iterator[None]:
    """The pipeline with a cache of diffusers on its transformer."""
    settings = config()
    with cacheable(pipe.transformer) as transformer:
        transformer.enable_cache(settings)
        try:
            yield
        finally:
            transformer.disable_cache()


Settings = Iterator[tuple[str, Callable[[], Any]]]


def _taylorseer(pipe: Any) -> Settings:
    """Skip all blocks and forecast the output (its lite mode), or the last block's result, by name."""
    from diffusers import TaylorSeerCacheConfig

    blocks = [re.escape(place.path) for place in find_blocks(find_transformer(pipe))]
    ways = {"lite": (PROJECTION, blocks), "last block": (blocks[-1], blocks[:-1])}
    for (way, (forecast, skipped)), order, warmup, interval in itertools.product(
        ways.items(), ORDERS, WARMUPS, INTERVALS
    ):
        late = "" if warmup == WARMUPS[0] else f" W={warmup}"
        yield (
            f"TaylorSeer {way} N={interval} O={order}{late}",
            partial(
                TaylorSeerCacheConfig,
                cache_interval=interval,
                disable_cache_before_step=warmup,
                max_order=order,
                taylor_factors_dtype=pipe.transformer.dtype,
                cache_identifiers=[forecast],
                skip_predict_identifiers=skipped,
            ),
        )


def _first_block() -> Settings:
    from diffusers import FirstBlockCacheConfig

    for threshold in FIRST_BLOCK:
        yield f"FirstBlockCache {threshold:.2f}", partial(FirstBlockCacheConfig, threshold=threshold)


def _magnitude(pipe: Any, jobs: Sequence[Job], num_steps: int) -> Settings:
    from diffusers import MagCacheConfig

    ratios = cache(lambda: magnitude_ratios(pipe, jobs, num_steps))

    def config(threshold: float, skips: int, retained: float) -> Any:
        return MagCacheConfig(
            threshold=threshold,
            max_skip_steps=skips,
            retention_ratio=retained,
            num_inference_steps=num_steps,
            mag_ratios=ratios(),
        )

    for (threshold, skips), retained in itertools.product(MAGNITUDE, RETENTIONS):
        yield f"MagCache {threshold:.2f} K={skips} R={retained}", partial(config, threshold, skips, retained)
