"""TaylorSeer, FirstBlockCache, MagCache and SeaCache as diffusers has them, also on networks not prepared for them."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor

from hyca_calib.baselines.base import INTERVALS, WARMUPS, Applied, Axis, Family, HalfOpenAxis, Settings, Setup, ladder
from hyca_calib.baselines.full_run import magnitude_ratios
from hyca_calib.baselines.untouched import untouched
from hyca_runtime.attach.clock import Clock
from hyca_runtime.attach.points import find_blocks, find_transformer

__all__ = ["cacheable", "cached", "first_block_family", "magnitude_family", "sea_family", "taylorseer_family"]

PROJECTION = r"proj_out(_2)?"
"""The module that makes the network's output: FLUX's lite mode knows it by the first name, DiT has the second."""
KNOWN_TO_SEA = ("WanTransformer3DModel", "Cosmos3OmniTransformer")
"""Networks whose latents SeaCache finds by itself."""


@contextmanager
def cached(pipe: Any, config: str, **options: Any) -> Iterator[None]:
    """The pipeline with a cache of diffusers on its transformer.

    Args:
        config: the class of diffusers that the cache is told by, given `options`.
    """
    import diffusers

    with cacheable(pipe) as transformer:
        transformer.enable_cache(getattr(diffusers, config)(**options))
        try:
            yield
        finally:
            transformer.disable_cache()


@contextmanager
def cacheable(pipe: Any) -> Iterator[Any]:
    """The transformer of `pipe` with ``enable_cache``, told of every call where in the run it is.

    Most networks have it from diffusers' ``CacheMixin``, and their pipelines name the context of each call; not all
    pipelines say the step there, as WanPipeline does, so what they leave out is read from the scheduler. Other
    networks, DiT among them, are given the mixin for the while, with one context for all calls: what a user would do
    by a subclass. Afterwards the network is as it was.
    """
    from diffusers import CacheMixin

    with untouched(pipe):
        transformer, clock = pipe.transformer, Clock(pipe.transformer)
        plain: Any = type(transformer)
        if isinstance(transformer, CacheMixin):
            inner: Callable[..., Applied] = transformer.cache_context

            def cache_context(name: str, **fields: Any) -> Applied:
                return inner(name, **{**_moment(pipe, None), **fields})

            transformer.cache_context = cache_context
        else:

            def call(self: Any, *args: Any, **kwargs: Any) -> Any:
                with self.cache_context("all", **_moment(pipe, clock.timestep(args, kwargs)[0])):
                    return plain.__call__(self, *args, **kwargs)

            transformer.__class__ = type(plain.__name__, (CacheMixin, plain), {"__call__": call})
        yield transformer


def _moment(pipe: Any, time: float | None) -> dict[str, Any]:
    """Step, number of steps and noise level, as far as the scheduler tells them.

    Args:
        time: of the call, for schedulers that do not keep their place.
    """
    scheduler: Any = getattr(pipe, "scheduler", None)
    times = getattr(scheduler, "timesteps", None)
    if times is None:
        return {}
    times = times.tolist()
    index = getattr(scheduler, "step_index", None)
    if index is None:
        index = times.index(time) if time in times else 0
    if index >= len(times):
        return {}
    if hasattr(scheduler, "alphas_cumprod"):
        kept = float(scheduler.alphas_cumprod[int(times[index])])
        signal, noise = kept**0.5, (1 - kept) ** 0.5
        sigma = noise / (signal + noise)  # of the flow that has the same ratio of noise to signal
    elif hasattr(scheduler, "sigmas"):
        sigma = float(scheduler.sigmas[index])
    else:
        return {}
    return {"step_index": index, "num_inference_steps": len(times), "sigma": sigma}


def taylorseer_family(num_steps: int) -> Family:
    """TaylorSeer at the network's output (its lite mode, by name) or at the last block's result."""

    def apply(pipe: Any, settings: Settings) -> Applied:
        blocks = [re.escape(place.path) for place in find_blocks(find_transformer(pipe))]
        lite = settings["way"] == "lite"
        return cached(
            pipe,
            "TaylorSeerCacheConfig",
            cache_interval=int(settings["N"]),
            disable_cache_before_step=int(settings["W"]),
            max_order=int(settings["O"]),
            taylor_factors_dtype=pipe.transformer.dtype,
            cache_identifiers=[PROJECTION if lite else blocks[-1]],
            skip_predict_identifiers=blocks if lite else blocks[:-1],
        )

    axes = (
        Axis("way", ("lite", "last block"), ordered=False),
        HalfOpenAxis("N", INTERVALS, (2, 6, 24)),
        HalfOpenAxis("O", (0, 1, 2, 3, 4, 5), (1,)),
        HalfOpenAxis("W", WARMUPS, (1, 5)),
    )
    return Family("TaylorSeer", "arXiv 2503.06923; diffusers", axes, apply, num_steps)


def first_block_family(num_steps: int) -> Family:
    """FirstBlockCache: the residual of the first block decides."""

    def apply(pipe: Any, settings: Settings) -> Applied:
        return cached(pipe, "FirstBlockCacheConfig", threshold=float(settings["threshold"]))

    axis = Axis("threshold", ladder(0.01, 6, 1.15), (0.04, 0.06, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 1.0, 2.0))
    return Family("FirstBlockCache", "ParaAttention; diffusers", (axis,), apply, num_steps)


def magnitude_family(setup: Setup) -> Family:
    """MagCache, calibrated on the samples of the setup when it is first used."""

    def apply(pipe: Any, settings: Settings) -> Applied:
        ratios = setup.recall("magnitude ratios", lambda: magnitude_ratios(pipe, setup.jobs, setup.num_steps))
        return cached(
            pipe,
            "MagCacheConfig",
            threshold=float(settings["threshold"]),
            max_skip_steps=int(settings["K"]),
            retention_ratio=float(settings["R"]),
            num_inference_steps=setup.num_steps,
            mag_ratios=list(ratios),
        )

    axes = (
        Axis("threshold", ladder(0.01, 10, 1.4), (0.06, 0.4, 4.0)),
        HalfOpenAxis("K", (1, 2, 3, 4, 6, 9, 14, 25, 50), (3, 25)),
        HalfOpenAxis("R", (0.0, 0.02, 0.04, 0.06, 0.1, 0.15, 0.2, 0.3, 0.4), (0.02, 0.1)),
    )
    return Family("MagCache", "arXiv 2506.09045; diffusers", axes, apply, setup.num_steps)


def sea_family(pipe: Any, setup: Setup) -> Family:
    """SeaCache; networks that it does not know by themselves get the callback that it asks for."""
    known = type(find_transformer(pipe)).__name__ in KNOWN_TO_SEA

    def apply(pipe: Any, settings: Settings) -> Applied:
        return cached(
            pipe,
            "SeaCacheConfig",
            threshold=float(settings["threshold"]),
            residual_order=int(settings["O"]),
            retention_steps=int(settings["W"]),
            max_consecutive_cached=int(settings["K"]),
            power_exp=float(settings["power"]),
            raw_vision_callback=None if known else _latents,
        )

    own = 3.0 if hasattr(pipe, "video_processor") else 2.0
    axes = (
        Axis("threshold", ladder(0.02, 6, 1.25), (0.05, 0.1, 0.2, 0.4, 1.0, 3.0)),
        Axis("O", (0, 1), (1,), closed=True),
        HalfOpenAxis("W", (1, 2, 4, 8, 16), (1,)),
        Axis("K", tuple(sorted({1, 2, 3, 5, 9, setup.num_steps})), (3, setup.num_steps), closed=True),
        HalfOpenAxis("power", (0.125, 0.25, 0.5, 1.0, 2.0, 3.0, 4.0, 6.0), (own,)),
    )
    return Family("SeaCache", "arXiv 2602.18993; diffusers", axes, apply, setup.num_steps)


def _latents(_network: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor] | None:
    """The latents of a call as SeaCache wants them, one ``(channels, frames, height, width)`` a sample."""
    value = kwargs.get("hidden_states", args[0] if args else None)
    if not isinstance(value, Tensor):
        return None
    if value.ndim == 3:
        rows, columns = _grid(kwargs.get("img_ids"), value.shape[1])
        value = value.transpose(1, 2).reshape(len(value), -1, rows, columns)
    return list((value if value.ndim == 5 else value.unsqueeze(2)).unbind())


def _grid(ids: Any, tokens: int) -> tuple[int, int]:
    """Rows and columns of tokens, by FLUX's position ids ``(tokens, 3)``; a square without them."""
    if not isinstance(ids, Tensor):
        return math.isqrt(tokens), math.isqrt(tokens)
    last = ids.reshape(-1, ids.shape[-1])[-1]
    return int(last[-2]) + 1, int(last[-1]) + 1
