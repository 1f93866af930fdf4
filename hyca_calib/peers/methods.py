"""What a user would pick instead, as context managers over the same pipeline.

Only what ships with diffusers, and fewer steps. Every peer is given a sweep of its own settings;
the bench compares against the best of all that spend at least as many FLOPs.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from hyca_calib.rollout import sample_latents
from hyca_calib.workload import Job
from hyca_runtime.attach.attachment import Attachment
from hyca_runtime.attach.points import find_blocks, find_transformer
from hyca_runtime.point import CachePoint

__all__ = ["Peer", "peers"]


@dataclass(frozen=True)
class Peer:
    """One setting of one method.

    Attributes:
        steps: sampler steps it uses; others than the full run's only for fewer steps.
        applied: wraps the sampling.
    """

    name: str
    steps: int
    applied: Callable[[], AbstractContextManager[Any]]


def peers(pipe: Any, jobs: Sequence[Job], num_steps: int) -> list[Peer]:
    """Every peer setting of the bench; MagCache is calibrated on `jobs` first."""
    from diffusers import FirstBlockCacheConfig, MagCacheConfig, TaylorSeerCacheConfig

    found = [
        Peer(f"fewer Euler steps: {n}", n, nullcontext)
        for n in sorted({max(2, num_steps * part // 100) for part in (14, 18, 20, 26, 34, 38, 50)})
    ]
    for order in (1, 2):
        for interval in (2, 3, 4, 5, 6, 7):
            config = TaylorSeerCacheConfig(
                cache_interval=interval, disable_cache_before_step=3, max_order=order, use_lite_mode=True,
                taylor_factors_dtype=pipe.transformer.dtype,
            )  # fmt: skip
            found.append(Peer(f"TaylorSeer lite N={interval} O={order}", num_steps, _cache(pipe, config)))
    for threshold in (0.05, 0.08, 0.10, 0.12, 0.15, 0.20, 0.25, 0.30, 0.35):
        config = FirstBlockCacheConfig(threshold=threshold)
        found.append(Peer(f"FirstBlockCache {threshold:.2f}", num_steps, _cache(pipe, config)))
    ratios = magnitude_ratios(pipe, jobs, num_steps)
    for threshold, skips in ((0.06, 3), (0.12, 4), (0.24, 5), (0.5, 6), (0.5, 8), (1.0, 10)):
        for retained in (0.1, 0.2):
            config = MagCacheConfig(
                threshold=threshold, max_skip_steps=skips, retention_ratio=retained,
                num_inference_steps=num_steps, mag_ratios=ratios,
            )  # fmt: skip
            name = f"MagCache {threshold:.2f} K={skips} R={retained}"
            found.append(Peer(name, num_steps, _cache(pipe, config)))
    return found


def magnitude_ratios(pipe: Any, jobs: Sequence[Job], num_steps: int) -> list[float]:
    """MagCache's calibration: mean over tokens of the block stack's residual norm, step over step."""
    module = find_transformer(pipe)
    first = find_blocks(module)[0].module
    norms: list[Any] = []
    attachment = Attachment(module, CachePoint(kind="trunk"))
    seen: list[Any] = []
    hook = first.register_forward_pre_hook(
        lambda _block, args, kwargs: seen.append(kwargs.get("hidden_states", args[0] if args else None)),
        with_kwargs=True,
    )

    def answer(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        output, feature = attachment.compute(args, kwargs)
        if feature is not None:
            norms.append((feature[0] - seen.pop()).float().norm(dim=-1))
        return output

    attachment.install(answer)
    try:
        sample_latents(pipe, jobs, num_steps, len(jobs))
    finally:
        attachment.remove()
        hook.remove()
    return [1.0, *((b / a.clamp(min=1e-8)).mean().item() for a, b in itertools.pairwise(norms))]


def _cache(pipe: Any, config: Any) -> Callable[[], AbstractContextManager[None]]:
    @contextmanager
    def applied() -> Iterator[None]:
        pipe.transformer.enable_cache(config)
        try:
            yield
        finally:
            pipe.transformer.disable_cache()

    return applied
