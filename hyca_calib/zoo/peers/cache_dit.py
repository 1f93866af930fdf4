"""cache-dit; imported only when its column runs."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import logging
import os
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from torch import nn

from hyca_calib.zoo.check import STEPS
from hyca_calib.zoo.peers.applied import Applied, Call, Way, named_context, pipeline_around
from hyca_runtime.attach.block_io import block_io
from hyca_runtime.attach.points import Place, find_block_lists

__all__ = ["adapter_by_hand", "carriers", "dual_block", "dual_block_taylor", "package"]


def package() -> Any:
    """The package, whose import and use print nothing then."""
    level = os.environ.get("CACHE_DIT_LOG_LEVEL")
    os.environ["CACHE_DIT_LOG_LEVEL"] = "critical"
    logging.disable(logging.CRITICAL)
    try:
        return importlib.import_module("cache_dit")
    finally:
        logging.disable(logging.NOTSET)
        if level is None:
            del os.environ["CACHE_DIT_LOG_LEVEL"]
        else:
            os.environ["CACHE_DIT_LOG_LEVEL"] = level


def dual_block(module: nn.Module) -> list[Way]:
    """DBCache, by itself and with its adapter written by hand."""
    return [
        _dual_block_way(_itself, {}),
        *(_dual_block_way(partial(adapter_by_hand, lists), {}, _told(lists)) for lists in carriers(module)),
    ]


def dual_block_taylor(module: nn.Module) -> list[Way]:
    """DBCache whose cached residual is extrapolated by TaylorSeer."""
    forecast = {"taylorseer_order": 1}
    no_text = {**forecast, "enable_encoder_calibrator": False}
    return [
        _dual_block_way(_itself, forecast),
        _dual_block_way(_itself, no_text, "enable_encoder_calibrator=False"),
        *(_dual_block_way(partial(adapter_by_hand, lists), forecast, _told(lists)) for lists in carriers(module)),
    ]


def _dual_block_way(target_of: Callable[[Any], Any], forecast: Mapping[str, Any], *notes: str) -> Way:
    cache_dit = package()

    def apply(module: nn.Module, _: Sequence[Call]) -> Applied:
        pipe = pipeline_around(module, lambda _: named_context(module))
        target = target_of(pipe)
        cache_dit.enable_cache(
            target,
            cache_config=cache_dit.DBCacheConfig(
                Fn_compute_blocks=1, Bn_compute_blocks=0, residual_diff_threshold=10.0, max_warmup_steps=2,
                max_continuous_cached_steps=1, num_inference_steps=STEPS, enable_separate_cfg=False,
            ),
            calibrator_config=cache_dit.TaylorSeerCalibratorConfig(**forecast) if forecast else None,
        )  # fmt: skip
        return Applied(pipe, lambda: cache_dit.disable_cache(target))

    return Way(apply, notes)


def _itself(pipe: Any) -> Any:
    """cache-dit looks up its own adapter then."""
    return pipe


def adapter_by_hand(lists: Sequence[Place], pipe: Any) -> Any:
    """The adapter that a user writes for a network that cache-dit does not know."""
    cache_dit, network = package(), pipe.transformer
    return cache_dit.BlockAdapter(
        pipe=pipe,
        transformer=network,
        blocks=[network.get_submodule(place.path) for place in lists],
        forward_pattern=[getattr(cache_dit.ForwardPattern, _pattern(place)) for place in lists],
        check_forward_pattern=False,
    )


def _told(lists: Sequence[Place]) -> str:
    return "BlockAdapter by hand: " + " and ".join(f"{place.path} {_pattern(place)}" for place in lists)


def carriers(module: nn.Module) -> list[list[Place]]:
    """The lists of blocks that carry the latents: all together, then the last alone."""
    lists = [p for p in find_block_lists(module) if p.parent is module and not re.search("refiner|text|vace", p.name)]
    return [part for part in (lists, lists[-1:] if len(lists) > 1 else []) if part]


def _pattern(blocks: Place) -> str:
    """The pattern of a list of blocks by what they return."""
    returns = block_io(next(iter(blocks.module.children()))).returns
    if len(returns) == 1:
        return "Pattern_3"
    return "Pattern_1" if returns[0] == "encoder_hidden_states" else "Pattern_0"
