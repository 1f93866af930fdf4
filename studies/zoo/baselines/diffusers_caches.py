"""The columns of diffusers' caches."""

import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from functools import partial
from itertools import chain
from typing import Any

import torch
from torch import nn

from hyca_calib.baselines.foreign_caches import hook_registries
from hyca_calib.pipelines.around import named_context, pipeline_around
from hyca_runtime.attach.points import find_block_lists
from studies.zoo.baselines.applied import Applied, Call, Outputs, Way
from studies.zoo.check import STEPS

THRESHOLDS = (0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2)
"""Of FirstBlockCache; random weights change more from step to step than trained ones."""


def _diffusers(
    module: nn.Module, config: Callable[[], Any], function: str, notes: tuple[str, ...] = (), setting: str = ""
) -> list[Way]:
    """By `enable_cache`, as pipelines are documented; by the public function on networks without it."""

    def enable(module: nn.Module, _: Sequence[Call]) -> Applied:
        network: Any = module
        network.enable_cache(config())
        return Applied(pipeline_around(module, lambda _: named_context(module)), network.disable_cache)

    def call(module: nn.Module, _: Sequence[Call]) -> Applied:
        from diffusers import hooks
        from diffusers.hooks.hooks import CacheContext, _set_cache_context

        registry = hooks.HookRegistry.check_if_exists_or_initialize(module)
        getattr(hooks, function)(module, config())
        pipe = pipeline_around(module, lambda _: nullcontext())

        def run(calls: Iterable[Call]) -> Outputs:
            _set_cache_context(module, CacheContext("cond"))
            found: Outputs = pipe(calls)
            registry.reset_stateful_hooks(recurse=True)
            return found

        def remove() -> None:
            for name in {name for each in hook_registries(module) for name in each.hooks}:
                registry.remove_hook(name, recurse=True)

        return Applied(run, remove)

    if hasattr(module, "enable_cache"):
        return [Way(enable, notes, setting)]
    return [Way(call, (*notes, "no `enable_cache`: context, reset and removal through internals of hooks"), setting)]


def first_block(module: nn.Module) -> list[Way]:
    """Larger and larger thresholds: one that is too large mistakes another run's input for the next step."""
    from diffusers import FirstBlockCacheConfig

    configs = {
        f"threshold={threshold:g}": partial(FirstBlockCacheConfig, threshold=threshold) for threshold in THRESHOLDS
    }
    ways = [_diffusers(module, make, "apply_first_block_cache", setting=told) for told, make in configs.items()]
    return list(chain.from_iterable(ways))


def mag(module: nn.Module) -> list[Way]:
    """MagCache with all magnitude ratios 1."""
    from diffusers import MagCacheConfig

    def config() -> Any:
        return MagCacheConfig(
            threshold=1.0, max_skip_steps=1, retention_ratio=0.33, num_inference_steps=STEPS, mag_ratios=[1.0] * STEPS
        )

    return _diffusers(module, config, "apply_mag_cache")


def taylor(module: nn.Module, notes: tuple[str, ...] = (), **options: Any) -> list[Way]:
    """TaylorSeer on the modules that it finds by itself."""
    from diffusers import TaylorSeerCacheConfig

    def config() -> Any:
        return TaylorSeerCacheConfig(
            cache_interval=2, disable_cache_before_step=2, max_order=1, taylor_factors_dtype=torch.float32, **options
        )

    return _diffusers(module, config, "apply_taylorseer_cache", notes)


def taylor_lite(module: nn.Module) -> list[Way]:
    """TaylorSeer in its lite mode."""
    return taylor(module, use_lite_mode=True)


def taylor_blocks(module: nn.Module) -> list[Way]:
    """TaylorSeer on blocks that are named to it."""
    lists = [(place, list(place.module.children())) for place in find_block_lists(module)]
    every = [re.escape(f"{place.path}.{i}") for place, blocks in lists for i in range(len(blocks))]
    but_last = [re.escape(f"{place.path}.{i}") for place, blocks in lists for i in range(len(blocks) - 1)]
    return [
        *taylor(module, cache_identifiers=every),
        *taylor(module, ("every block named but the last of each list",), cache_identifiers=but_last),
    ]
