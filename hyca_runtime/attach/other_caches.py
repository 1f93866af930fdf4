"""Caches of others that may drive a network already."""

from __future__ import annotations

from torch import nn

from hyca_runtime.errors import AttachError


def check_undriven(module: nn.Module) -> None:
    """Raises AttachError if a cache of diffusers or cache-dit is enabled on a network."""
    if getattr(module, "is_cache_enabled", False) is True or _has_cache_hooks(module):
        raise AttachError(f"{type(module).__name__} has a diffusers cache enabled; call disable_cache() first")
    if getattr(module, "_is_cached", False) is True:
        raise AttachError(f"{type(module).__name__} has cache-dit enabled; call its disable_cache first")


def _has_cache_hooks(module: nn.Module) -> bool:
    """Whether a cache of diffusers was put on the blocks directly; offload hooks keep no state of a run."""
    registries = (getattr(part, "_diffusers_hook", None) for part in module.modules())
    hooks = [hook for registry in registries if registry is not None for hook in registry.hooks.values()]
    return any(getattr(hook, "_is_stateful", False) for hook in hooks)
