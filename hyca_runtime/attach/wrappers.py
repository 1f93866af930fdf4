"""Modules around others that are called in their place."""

from __future__ import annotations

from torch import nn


def unwrapped(module: nn.Module) -> nn.Module:
    """The network, or the block, inside `torch.compile`, data-parallel and checkpointing wrappers."""
    for name in ("_orig_mod", "_checkpoint_wrapped_module", "module"):
        inner = getattr(module, name, None)
        if isinstance(inner, nn.Module) and (name != "module" or "Parallel" in type(module).__name__):
            return unwrapped(inner)
    return module
