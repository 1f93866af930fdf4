"""TaylorSeer, FirstBlockCache and MagCache, as diffusers has them."""

from __future__ import annotations

import re
from contextlib import AbstractContextManager
from typing import Any

from hyca_calib.baselines.axes import INTERVALS, WARMUPS, AxisFrom, nearest
from hyca_calib.baselines.base import Axis, Family, Settings, Setup, ladder
from hyca_calib.baselines.cacheable import cached
from hyca_calib.baselines.magnitude import magnitude_ratios
from hyca_runtime.attach.points import find_blocks, find_transformer

__all__ = ["first_block_family", "magnitude_family", "taylorseer_family"]

PROJECTION = r"proj_out(_2)?"
"""The module that makes the network's output: FLUX's lite mode knows it by the first name, DiT has the second."""


def taylorseer_family(num_steps: int) -> Family:
    """TaylorSeer at the network's output (its lite mode, by name) or at the last block's result."""

    def apply(pipe: Any, settings: Settings) -> AbstractContextManager[None]:
        from diffusers import TaylorSeerCacheConfig

        blocks = [re.escape(place.path) for place in find_blocks(find_transformer(pipe))]
        lite = settings["way"] == "lite"
        return cached(
            pipe,
            TaylorSeerCacheConfig(
                cache_interval=int(settings["N"]),
                disable_cache_before_step=int(settings["W"]),
                max_order=int(settings["O"]),
                taylor_factors_dtype=pipe.transformer.dtype,
                cache_identifiers=[PROJECTION if lite else blocks[-1]],
                skip_predict_identifiers=blocks if lite else blocks[:-1],
            ),
        )

    axes = (
        Axis("way", ("lite", "last block"), ordered=False),
        AxisFrom("N", INTERVALS, (2, 6, 24)),
        AxisFrom("O", (0, 1, 2, 3, 4, 5), (1,)),
        AxisFrom("W", WARMUPS, (1, 5)),
    )
    return Family("TaylorSeer", "arXiv 2503.06923; diffusers", axes, apply, num_steps)


def first_block_family(num_steps: int) -> Family:
    """FirstBlockCache: the residual of the first block decides."""

    def apply(pipe: Any, settings: Settings) -> AbstractContextManager[None]:
        from diffusers import FirstBlockCacheConfig

        return cached(pipe, FirstBlockCacheConfig(threshold=float(settings["threshold"])))

    thresholds = ladder(0.01, 6, 1.15)
    axis = Axis("threshold", thresholds, nearest(thresholds, (0.04, 0.06, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 1.0, 2.0)))
    return Family("FirstBlockCache", "ParaAttention; diffusers", (axis,), apply, num_steps)


def magnitude_family(setup: Setup) -> Family:
    """MagCache, calibrated on the samples of the setup when it is first used."""

    def apply(pipe: Any, settings: Settings) -> AbstractContextManager[None]:
        from diffusers import MagCacheConfig

        ratios = setup.recall("magnitude ratios", lambda: magnitude_ratios(pipe, setup.jobs, setup.num_steps))
        config = MagCacheConfig(
            threshold=float(settings["threshold"]),
            max_skip_steps=int(settings["K"]),
            retention_ratio=float(settings["R"]),
            num_inference_steps=setup.num_steps,
            mag_ratios=list(ratios),
        )
        return cached(pipe, config)

    thresholds = ladder(0.01, 10, 1.4)
    axes = (
        Axis("threshold", thresholds, nearest(thresholds, (0.06, 0.4, 4.0))),
        AxisFrom("K", (1, 2, 3, 4, 6, 9, 14, 25, 50), (3, 25)),
        AxisFrom("R", (0.0, 0.02, 0.04, 0.06, 0.1, 0.15, 0.2, 0.3, 0.4), (0.02, 0.1)),
    )
    return Family("MagCache", "arXiv 2506.09045; diffusers", axes, apply, setup.num_steps)
