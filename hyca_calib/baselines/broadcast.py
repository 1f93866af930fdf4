"""Caches of diffusers that broadcast attention, PyramidAttentionBroadcast and FasterCache, and SeaCache."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from hyca_calib.baselines.axes import WARMUPS, AxisFrom, nearest
from hyca_calib.baselines.base import Axis, Family, Settings, Setup, ladder
from hyca_calib.baselines.cacheable import cacheable, cached
from hyca_calib.baselines.facts import Facts, observe
from hyca_runtime.attach.clock import Clock
from hyca_runtime.attach.points import find_transformer

__all__ = ["faster_family", "pyramid_family", "sea_family"]

RANGES = (2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 25)
COND_FIRST = ("DiTTransformer2DModel",)
"""Networks whose pipelines put the conditional half of the batch first; FasterCache takes it to be the second."""
HALVED = ("hidden_states", "encoder_hidden_states", "timestep", "class_labels", "pooled_projections")


def pyramid_family(pipe: Any, setup: Setup) -> Family:
    """PyramidAttentionBroadcast, on self- and cross-attention."""
    facts = observe(pipe, setup)

    def apply(pipe: Any, settings: Settings) -> AbstractContextManager[None]:
        from diffusers import PyramidAttentionBroadcastConfig

        def config(now: Callable[[], float]) -> Any:
            times = (-1, _bound(facts, int(settings["W"])))
            return PyramidAttentionBroadcastConfig(
                spatial_attention_block_skip_range=int(settings["N"]),
                cross_attention_block_skip_range=int(settings["cross"]) * int(settings["N"]),
                spatial_attention_timestep_skip_range=times,
                cross_attention_timestep_skip_range=times,
                current_timestep_callback=now,
            )

        return _timed(pipe, facts, config)

    crosses = any(getattr(module, "is_cross_attention", False) for module in find_transformer(pipe).modules())
    axes = (
        AxisFrom("N", RANGES, (2, 3, 5, 8)),
        AxisFrom("W", WARMUPS, (1, 4, 12)),
        AxisFrom("cross", (1, 2, 3, 4, 6), (1,))
        if crosses
        else Axis("cross", (1,), closed=True),  # cross-attention, so many times as long
    )
    return Family("PyramidAttentionBroadcast", "arXiv 2408.12588; diffusers", axes, apply, setup.num_steps)


def faster_family(pipe: Any, setup: Setup) -> Family:
    """FasterCache: attention extrapolated from its last two results; guidance from its frequencies.

    Guidance only where one call of the network has both branches, as upstream requires (diffusers,
    hooks/faster_cache.py, `FasterCacheDenoiserHook.new_forward`, which cuts the batch in two).
    """
    facts = observe(pipe, setup)
    both = facts.batch == 2

    def apply(pipe: Any, settings: Settings) -> AbstractContextManager[None]:
        from diffusers import FasterCacheConfig

        def config(now: Callable[[], float]) -> Any:
            times = (-1, _bound(facts, int(settings["W"])))
            weight = float(settings["weight"])
            return FasterCacheConfig(
                spatial_attention_block_skip_range=int(settings["N"]),
                spatial_attention_timestep_skip_range=times,
                unconditional_batch_skip_range=int(settings["guidance"]),
                unconditional_batch_timestep_skip_range=times,
                attention_weight_callback=lambda _: weight,
                is_guidance_distilled=int(settings["guidance"]) == 1,
                tensor_format="BCHW",
                current_timestep_callback=now,
                _unconditional_conditional_input_kwargs_identifiers=list(HALVED),
            )

        return _timed(pipe, facts, config, turned=both and type(pipe.transformer).__name__ in COND_FIRST)

    axes = (
        AxisFrom("N", RANGES, (2, 4, 8)),
        AxisFrom("W", WARMUPS, (1, 4)),
        Axis("weight", (0.0, 0.25, 0.5, 0.75, 1.0), (0.5,), closed=True),
        AxisFrom("guidance", (1, 2, 3, 4, 5, 6, 8, 10, 12, 16), (1, 3))
        if both
        else Axis("guidance", (1,), closed=True),
    )
    return Family("FasterCache", "arXiv 2410.19355; diffusers", axes, apply, setup.num_steps)


def sea_family(pipe: Any, setup: Setup) -> Family:
    """SeaCache; networks that it does not know by themselves get the callback that it asks for."""
    latents = _latents(find_transformer(pipe))

    def apply(pipe: Any, settings: Settings) -> AbstractContextManager[None]:
        from diffusers import SeaCacheConfig

        config = SeaCacheConfig(
            threshold=float(settings["threshold"]),
            residual_order=int(settings["O"]),
            retention_steps=int(settings["W"]),
            max_consecutive_cached=int(settings["K"]),
            power_exp=float(settings["power"]),
            raw_vision_callback=latents,
        )
        return cached(pipe, config)

    thresholds = ladder(0.02, 6, 1.25)
    own = 3.0 if hasattr(pipe, "video_processor") else 2.0
    axes = (
        Axis("threshold", thresholds, nearest(thresholds, (0.05, 0.1, 0.2, 0.4, 1.0, 3.0))),
        Axis("O", (0, 1), (1,), closed=True),
        AxisFrom("W", (1, 2, 4, 8, 16), (1,)),
        Axis("K", (1, 2, 3, 5, 9, setup.num_steps), (3, setup.num_steps), closed=True),
        AxisFrom("power", (0.125, 0.25, 0.5, 1.0, 2.0, 3.0, 4.0, 6.0), (own,)),
    )
    return Family("SeaCache", "arXiv 2602.18993; diffusers", axes, apply, setup.num_steps)


def _bound(facts: Facts, steps: int) -> float:
    """The timestep, from about 1000, below which all steps lie but so many first ones."""
    return facts.times[min(steps, len(facts.times)) - 1] * facts.unit


@contextmanager
def _timed(pipe: Any, facts: Facts, make: Callable[[Callable[[], float]], Any], turned: bool = False) -> Iterator[None]:
    """A cache that asks for the current timestep, in a pipeline that need not tell it.

    Every guidance branch keeps results of its own: the hooks of both methods have one state for all calls (diffusers,
    hooks/pyramid_attention_broadcast.py and hooks/faster_cache.py, `self.state`), so where the branches are calls one
    after the other, one would be given the results of the other.

    Args:
        turned: whether the halves of the batch are exchanged for the method.
    """
    now = [1000.0]

    with cacheable(pipe) as transformer:
        clock = Clock(transformer)

        def overhear(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            del module
            now[0] = clock.timestep(args, kwargs)[0] * facts.unit
            if not turned:
                return None
            return tuple(_exchanged(a) for a in args), {name: _exchanged(value) for name, value in kwargs.items()}

        handles = [transformer.register_forward_pre_hook(overhear, with_kwargs=True)]
        if turned:
            handles.append(transformer.register_forward_hook(lambda module, args, output: _turned_back(output)))
        with _quiet("diffusers.hooks.faster_cache"):  # it warns at every use that it is experimental
            transformer.enable_cache(make(lambda: now[0]))
        _keep_branches_apart(transformer)
        try:
            yield
        finally:
            transformer.disable_cache()
            for handle in handles:
                handle.remove()


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


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
    registries = [
        vars(module)["_diffusers_hook"] for module in transformer.modules() if "_diffusers_hook" in vars(module)
    ]
    hooks = [hook for registry in registries for hook in registry.hooks.values() if hasattr(hook, "state")]
    states: dict[tuple[int, str], Any] = {}
    inner = transformer.cache_context

    def cache_context(name: str, **fields: Any) -> AbstractContextManager[None]:
        for number, hook in enumerate(hooks):
            if (number, name) not in states:
                states[number, name] = type(hook.state)()
            hook.state = states[number, name]
        return inner(name, **fields)  # type: ignore[no-any-return]

    def forgetting(own: Callable[[nn.Module], Any]) -> Callable[[nn.Module], Any]:
        def reset_state(module: nn.Module) -> Any:
            states.clear()
            return own(module)

        return reset_state

    transformer.cache_context = cache_context
    for hook in hooks:
        hook.reset_state = forgetting(hook.reset_state)


def _latents(network: nn.Module) -> Callable[..., list[Tensor] | None] | None:
    """The latents of a call as SeaCache wants them, one ``(channels, frames, height, width)`` a sample.

    None where it knows the network itself.
    """
    kind = type(network).__name__
    if kind in ("WanTransformer3DModel", "Cosmos3OmniTransformer"):
        return None

    def found(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor] | None:
        del module
        value = kwargs.get("hidden_states", args[0] if args else None)
        if not isinstance(value, Tensor):
            return None
        if value.ndim == 5:
            return list(value.unbind())
        if value.ndim == 4:
            return list(value.unsqueeze(2).unbind())
        rows, columns = _grid(kwargs.get("img_ids"), value.shape[1])
        return list(value.transpose(1, 2).reshape(len(value), -1, 1, rows, columns).unbind())

    return found


def _grid(ids: Any, tokens: int) -> tuple[int, int]:
    """Rows and columns of tokens, by FLUX's position ids ``(tokens, 3)``; a square without them."""
    if not isinstance(ids, Tensor):
        return math.isqrt(tokens), math.isqrt(tokens)
    last = ids.reshape(-1, ids.shape[-1])[-1]
    return int(last[-2]) + 1, int(last[-1]) + 1
