"""TaylorSeer, FirstBlockCache, MagCache, SeaCache, PyramidAttentionBroadcast and FasterCache as diffusers has them."""

import math
import re
from typing import Any

from torch import Tensor

from hyca_calib.baselines.base import INTERVALS, WARMUPS, Applied, Axis, Family, HalfOpenAxis, Settings, Setup, ladder
from hyca_calib.baselines.foreign_caches import cached, timed
from hyca_calib.baselines.full_run import magnitude_ratios, observe
from hyca_runtime.attach.points import find_blocks, find_transformer

PROJECTION = r"proj_out(_2)?"
"""The module that makes the network's output: FLUX's lite mode knows it by the first name, DiT has the second."""
KNOWN_TO_SEA = ("WanTransformer3DModel", "Cosmos3OmniTransformer")
"""Networks whose latents SeaCache finds by itself."""
RANGES = (2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 25)
COND_FIRST = ("DiTTransformer2DModel",)
"""Networks whose pipelines put the conditional half of the batch first; FasterCache takes it to be the second."""
HALVED = ("hidden_states", "encoder_hidden_states", "timestep", "class_labels", "pooled_projections")


def diffusers_families(pipe: Any, setup: Setup) -> list[Family]:
    """The caches of diffusers."""
    return [
        taylorseer_family(setup.num_steps),
        _first_block_family(setup.num_steps),
        _magnitude_family(setup),
        _sea_family(pipe, setup),
        _pyramid_family(pipe, setup),
        _faster_family(pipe, setup),
    ]


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


def _first_block_family(num_steps: int) -> Family:
    """FirstBlockCache: the residual of the first block decides."""

    def apply(pipe: Any, settings: Settings) -> Applied:
        return cached(pipe, "FirstBlockCacheConfig", threshold=float(settings["threshold"]))

    axis = Axis("threshold", ladder(0.01, 6, 1.15), (0.04, 0.06, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 1.0, 2.0))
    return Family("FirstBlockCache", "ParaAttention; diffusers", (axis,), apply, num_steps)


def _magnitude_family(setup: Setup) -> Family:
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
        HalfOpenAxis("R", (0.0, 0.02, 0.04, 0.06, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8), (0.02, 0.1)),
    )
    return Family("MagCache", "arXiv 2506.09045; diffusers", axes, apply, setup.num_steps)


def _sea_family(pipe: Any, setup: Setup) -> Family:
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
        HalfOpenAxis("power", (0.125, 0.25, 0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0), (own,)),
    )
    return Family("SeaCache", "arXiv 2602.18993; diffusers", axes, apply, setup.num_steps)


def _latents(_network: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor] | None:
    """The latents of a call as SeaCache wants them, one ``(channels, frames, height, width)`` a sample."""
    value = kwargs.get("hidden_states", args[0] if args else None)
    if not isinstance(value, Tensor):
        return None
    if value.ndim == 3:
        ids, grid = kwargs.get("img_ids"), [math.isqrt(value.shape[1])] * 2  # a square
        if isinstance(ids, Tensor):  # of FLUX, ``(token, 3)``: the last one's place
            grid = (ids.reshape(-1, ids.shape[-1])[-1, -2:] + 1).int().tolist()
        value = value.transpose(1, 2).reshape(len(value), -1, *grid)
    return list((value if value.ndim == 5 else value.unsqueeze(2)).unbind())


def _pyramid_family(pipe: Any, setup: Setup) -> Family:
    """PyramidAttentionBroadcast, on self- and cross-attention."""
    facts = observe(pipe, setup)

    def apply(pipe: Any, settings: Settings) -> Applied:
        times = (-1, facts.bound(int(settings["W"])))
        return timed(
            pipe,
            "PyramidAttentionBroadcastConfig",
            facts.unit,
            spatial_attention_block_skip_range=int(settings["N"]),
            cross_attention_block_skip_range=int(settings["cross"]) * int(settings["N"]),
            spatial_attention_timestep_skip_range=times,
            cross_attention_timestep_skip_range=times,
        )

    crosses = any(getattr(module, "is_cross_attention", False) for module in find_transformer(pipe).modules())
    cross = (1, 2, 3, 4, 6)  # cross-attention, so many times as long
    axes = (
        HalfOpenAxis("N", RANGES, (2, 3, 5, 8)),
        HalfOpenAxis("W", WARMUPS, (1, 4, 12)),
        HalfOpenAxis("cross", cross, (1,)) if crosses else Axis("cross", (1,), closed=True),
    )
    return Family("PyramidAttentionBroadcast", "arXiv 2408.12588; diffusers", axes, apply, setup.num_steps)


def _faster_family(pipe: Any, setup: Setup) -> Family:
    """FasterCache: attention extrapolated from its last two results; guidance from its frequencies.

    Guidance only where one call of the network has both branches, as upstream requires (diffusers,
    hooks/faster_cache.py, `FasterCacheDenoiserHook.new_forward`, which cuts the batch in two).
    """
    facts = observe(pipe, setup)
    both = facts.batch == 2

    def apply(pipe: Any, settings: Settings) -> Applied:
        times, weight = (-1, facts.bound(int(settings["W"]))), float(settings["weight"])
        return timed(
            pipe,
            "FasterCacheConfig",
            facts.unit,
            turned=both and type(pipe.transformer).__name__ in COND_FIRST,
            spatial_attention_block_skip_range=int(settings["N"]),
            spatial_attention_timestep_skip_range=times,
            unconditional_batch_skip_range=int(settings["guidance"]),
            unconditional_batch_timestep_skip_range=times,
            attention_weight_callback=lambda _: weight,
            is_guidance_distilled=int(settings["guidance"]) == 1,
            tensor_format="BCHW",
            _unconditional_conditional_input_kwargs_identifiers=list(HALVED),
        )

    guidance = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16)
    axes = (
        HalfOpenAxis("N", RANGES, (2, 4, 8)),
        HalfOpenAxis("W", WARMUPS, (1, 4)),
        Axis("weight", (0.0, 0.25, 0.5, 0.75, 1.0), (0.5,), closed=True),
        HalfOpenAxis("guidance", guidance, (1, 3)) if both else Axis("guidance", (1,), closed=True),
    )
    return Family("FasterCache", "arXiv 2410.19355; diffusers", axes, apply, setup.num_steps)
