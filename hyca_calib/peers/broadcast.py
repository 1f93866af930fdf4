"""Caches of diffusers that broadcast attention, and SeaCache: where they attach, with a sweep of their settings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn

from hyca_calib.peers.base import Peer
from hyca_calib.peers.cacheable import cacheable
from hyca_calib.peers.caches import cached
from hyca_calib.workload import Job

__all__ = ["broadcast_peers"]

ALL_TIMES = (-1, 1001)
RANGES = (2, 3, 4, 6, 8)
UNCONDITIONAL = (2, 3, 5, 8)
SEA_THRESHOLDS = (0.1, 0.25, 0.5, 1.0, 2.0, 4.0)
TRAINED_TIMES = 1000


def broadcast_peers(pipe: Any, jobs: Sequence[Job], num_steps: int) -> list[Peer]:
    """PyramidAttentionBroadcast, FasterCache and SeaCache."""
    del jobs
    settings: list[tuple[str, str, Callable[..., Any]]] = []
    for count in RANGES:
        for late, times in (("", ALL_TIMES), (" late", (-1, 800))):
            name = f"PyramidAttentionBroadcast {count}{late}"
            settings.append((name, "PyramidAttentionBroadcast", partial(_pyramid, count=count, times=times)))
            name = f"FasterCache {count}{late}"
            settings.append((name, "FasterCache", partial(_faster, count=count, times=times, skipped=None)))
    for skipped in UNCONDITIONAL:
        name = f"FasterCache 2, guidance every {skipped}"
        settings.append((name, "FasterCache", partial(_faster, count=2, times=ALL_TIMES, skipped=skipped)))
    found = [Peer(name, family, num_steps, partial(_timed, pipe, make)) for name, family, make in settings]
    for threshold in SEA_THRESHOLDS:
        config = partial(_sea, threshold)
        found.append(Peer(f"SeaCache {threshold:g}", "SeaCache", num_steps, partial(cached, pipe, config)))
    return found


@contextmanager
def _timed(pipe: Any, make: Callable[..., Any]) -> Iterator[None]:
    """A cache that asks for the current timestep, in a pipeline that need not tell it."""
    now = [float(TRAINED_TIMES)]

    def overhear(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        del module, args
        time = kwargs.get("timestep")
        if isinstance(time, Tensor):
            value = float(time.flatten()[0])
            now[0] = value * TRAINED_TIMES if value <= 1 else value

    with cacheable(pipe.transformer) as transformer:
        hearing = transformer.register_forward_pre_hook(overhear, with_kwargs=True)
        try:
            transformer.enable_cache(make(lambda: now[0]))
            try:
                yield
            finally:
                transformer.disable_cache()
        finally:
            hearing.remove()


def _pyramid(now: Callable[[], float], count: int, times: tuple[int, int]) -> Any:
    from diffusers import PyramidAttentionBroadcastConfig

    return PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=count,
        cross_attention_block_skip_range=count,
        spatial_attention_timestep_skip_range=times,
        cross_attention_timestep_skip_range=times,
        spatial_attention_block_identifiers=("blocks.*attn1", r"blocks.*attn\b", "transformer_blocks"),
        current_timestep_callback=now,
    )


def _faster(now: Callable[[], float], count: int, times: tuple[int, int], skipped: int | None) -> Any:
    from diffusers import FasterCacheConfig

    return FasterCacheConfig(
        spatial_attention_block_skip_range=count,
        spatial_attention_timestep_skip_range=times,
        unconditional_batch_skip_range=skipped or 1,
        unconditional_batch_timestep_skip_range=times,
        is_guidance_distilled=skipped is None,
        tensor_format="BCHW",
        current_timestep_callback=now,
    )


def _sea(threshold: float) -> Any:
    from diffusers import SeaCacheConfig

    return SeaCacheConfig(threshold=threshold, max_consecutive_cached=0)
