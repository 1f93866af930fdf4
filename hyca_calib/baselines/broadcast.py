"""Caches of diffusers that broadcast attention, PyramidAttentionBroadcast and FasterCache."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from hyca_calib.baselines.base import WARMUPS, Applied, Axis, Family, HalfOpenAxis, Settings, Setup
from hyca_calib.baselines.caches import cacheable
from hyca_calib.baselines.full_run import Facts, observe
from hyca_calib.baselines.untouched import hook_registries
from hyca_runtime.attach.clock import Clock
from hyca_runtime.attach.points import find_transformer

__all__ = ["faster_family", "pyramid_family"]

RANGES = (2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 25)
COND_FIRST = ("DiTTransformer2DModel",)
"""Networks whose pipelines put the conditional half of the batch first; FasterCache takes it to be the second."""
HALVED = ("hidden_states", "encoder_hidden_states", "timestep", "class_labels", "pooled_projections")


def pyramid_family(pipe: Any, setup: Setup) -> Family:
    """PyramidAttentionBroadcast, on self- and cross-attention."""
    facts = observe(pipe, setup)

    def apply(pipe: Any, settings: Settings) -> Applied:
        times = (-1, _bound(facts, int(settings["W"])))
        options = {
            "spatial_attention_block_skip_range": int(settings["N"]),
            "cross_attention_block_skip_range": int(settings["cross"]) * int(settings["N"]),
            "spatial_attention_timestep_skip_range": times,
            "cross_attention_timestep_skip_range": times,
        }
        return _timed(pipe, facts, "PyramidAttentionBroadcastConfig", options)

    crosses = any(getattr(module, "is_cross_attention", False) for module in find_transformer(pipe).modules())
    cross = (1, 2, 3, 4, 6)  # cross-attention, so many times as long
    axes = (
        HalfOpenAxis("N", RANGES, (2, 3, 5, 8)),
        HalfOpenAxis("W", WARMUPS, (1, 4, 12)),
        HalfOpenAxis("cross", cross, (1,)) if crosses else Axis("cross", (1,), closed=True),
    )
    return Family("PyramidAttentionBroadcast", "arXiv 2408.12588; diffusers", axes, apply, setup.num_steps)


def faster_family(pipe: Any, setup: Setup) -> Family:
    """FasterCache: attention extrapolated from its last two results; guidance from its frequencies.

    Guidance only where one call of the network has both branches, as upstream requires (diffusers,
    hooks/faster_cache.py, `FasterCacheDenoiserHook.new_forward`, which cuts the batch in two).
    """
    facts = observe(pipe, setup)
    both = facts.batch == 2

    def apply(pipe: Any, settings: Settings) -> Applied:
        times, weight = (-1, _bound(facts, int(settings["W"]))), float(settings["weight"])
        options = {
            "spatial_attention_block_skip_range": int(settings["N"]),
            "spatial_attention_timestep_skip_range": times,
            "unconditional_batch_skip_range": int(settings["guidance"]),
            "unconditional_batch_timestep_skip_range": times,
            "attention_weight_callback": lambda _: weight,
            "is_guidance_distilled": int(settings["guidance"]) == 1,
            "tensor_format": "BCHW",
            "_unconditional_conditional_input_kwargs_identifiers": list(HALVED),
        }
        turned = both and type(pipe.transformer).__name__ in COND_FIRST
        return _timed(pipe, facts, "FasterCacheConfig", options, turned)

    guidance = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16)
    axes = (
        HalfOpenAxis("N", RANGES, (2, 4, 8)),
        HalfOpenAxis("W", WARMUPS, (1, 4)),
        Axis("weight", (0.0, 0.25, 0.5, 0.75, 1.0), (0.5,), closed=True),
        HalfOpenAxis("guidance", guidance, (1, 3)) if both else Axis("guidance", (1,), closed=True),
    )
    return Family("FasterCache", "arXiv 2410.19355; diffusers", axes, apply, setup.num_steps)


def _bound(facts: Facts, steps: int) -> float:
    """The timestep, from about 1000, below which all steps lie but so many first ones."""
    return facts.times[min(steps, len(facts.times)) - 1] * facts.unit


@contextmanager
def _timed(pipe: Any, facts: Facts, config: str, options: dict[str, Any], turned: bool = False) -> Iterator[None]:
    """A cache that asks for the current timestep, in a pipeline that need not tell it.

    Every guidance branch keeps results of its own: the hooks of both methods have one state for all calls (diffusers,
    hooks/pyramid_attention_broadcast.py and hooks/faster_cache.py, `self.state`), so where the branches are calls one
    after the other, one would be given the results of the other.

    Args:
        config: the class of diffusers that the cache is told by, given `options`.
        turned: whether the halves of the batch are exchanged for the method.
    """
    import diffusers

    now = 1000.0

    def overhear(_network: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        nonlocal now
        now = clock.timestep(args, kwargs)[0] * facts.unit
        if not turned:
            return None
        return tuple(map(_exchanged, args)), {name: _exchanged(value) for name, value in kwargs.items()}

    with cacheable(pipe) as transformer, ExitStack() as stack:
        clock = Clock(transformer)
        stack.enter_context(transformer.register_forward_pre_hook(overhear, with_kwargs=True))
        if turned:
            stack.enter_context(transformer.register_forward_hook(lambda _network, _args, output: _turned_back(output)))
        logger = logging.getLogger("diffusers.hooks.faster_cache")  # it warns at every use that it is experimental
        stack.callback(logger.setLevel, logger.level)
        logger.setLevel(logging.ERROR)
        transformer.enable_cache(getattr(diffusers, config)(**options, current_timestep_callback=lambda: now))
        stack.callback(transformer.disable_cache)
        _keep_branches_apart(transformer)
        yield


def _exchanged(value: Any) -> Any:
    """The second half of a batch first."""
    if not isinstance(value, Tensor) or not value.ndim or len(value) % 2:
        return value
    return torch.cat(value.chunk(2)[::-1])


def _turned_back(output: Any) -> Any:
    if isinstance(output, tuple):
        return (_exchanged(output[0]), *output[1:])
    output.sample = _exchanged(output.sample)
    return output


def _keep_branches_apart(transformer: Any) -> None:
    """Hooks whose state is one for all calls get one for every name that the pipeline gives to a call."""
    registries = hook_registries(transformer)
    hooks = [hook for registry in registries for hook in registry.hooks.values() if hasattr(hook, "state")]
    states: dict[tuple[int, str], Any] = {}
    inner = transformer.cache_context

    def cache_context(name: str, **fields: Any) -> Applied:
        for number, hook in enumerate(hooks):
            if (number, name) not in states:
                states[number, name] = type(hook.state)()
            hook.state = states[number, name]
        return inner(name, **fields)  # type: ignore[no-any-return]

    def forget(own: Callable[[nn.Module], Any], module: nn.Module) -> Any:
        states.clear()
        return own(module)

    transformer.cache_context = cache_context
    for hook in hooks:
        hook.reset_state = partial(forget, hook.reset_state)
