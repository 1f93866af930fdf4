"""Finding block lists and final norms by structure; nothing is touched here."""

from __future__ import annotations

from torch import nn

from hyca_runtime.attach.block_io import BLOCK_IO
from hyca_runtime.errors import AttachError

__all__ = ["find_blocks", "find_final_norm", "find_transformer"]

FINAL_NORMS = ("norm_out",)


def find_transformer(target: object) -> nn.Module:
    """The network inside a diffusers pipeline, or `target` itself if it is a module.

    Raises:
        AttachError: neither.
    """
    module = target if isinstance(target, nn.Module) else getattr(target, "transformer", None)
    if not isinstance(module, nn.Module):
        raise AttachError(
            f"expected a diffusers pipeline with a `transformer`, or an nn.Module, got {type(target).__name__}"
        )
    compiled_from = getattr(module, "_orig_mod", None)
    return compiled_from if isinstance(compiled_from, nn.Module) else module


def find_blocks(transformer: nn.Module) -> list[nn.Module]:
    """Every block of every block list, in order of declaration.

    Raises:
        AttachError: no list, or blocks whose output form is unknown.
    """
    lists = [child for child in transformer.children() if isinstance(child, nn.ModuleList)]
    blocks = [block for items in lists for block in items]
    unknown = sorted({type(block).__name__ for block in blocks} - set(BLOCK_IO))
    kind = type(transformer).__name__
    if not blocks:
        raise AttachError(f"{kind} has no list of blocks; use the point 'output'")
    if unknown:
        raise AttachError(f"{kind}: what {', '.join(unknown)} returns is not known; use the point 'output'")
    return blocks


def find_final_norm(transformer: nn.Module) -> nn.Module:
    """The module whose first input is the last hidden feature.

    Raises:
        AttachError: none of the known names is there.
    """
    for name in FINAL_NORMS:
        module = getattr(transformer, name, None)
        if isinstance(module, nn.Module):
            return module
    raise AttachError(
        f"{type(transformer).__name__} has no final norm named {' or '.join(FINAL_NORMS)}; use the point 'output'"
    )
