"""Finding the layers of blocks by structure; nothing is touched here."""

from __future__ import annotations

import re
from fnmatch import fnmatchcase

from torch import nn

from hyca_runtime.attach.points import Place, find_block_lists, place_at
from hyca_runtime.errors import AttachError

LAYER_NAMES = {
    "attention": re.compile(r"^(audio_)?(attn1?|self_attn|(self_)?attention)$"),
    "cross_attention": re.compile(r"^(audio_)?(attn2|cross_attn|((va|av)_)?cross_attention)$|^\w+_to_\w+_attn$"),
    "mlp": re.compile(r"^(audio_)?(mlp(_moe_gen)?|(img|txt)_mlp|(txt_)?ff(_context|_i|_t)?|ffn|feed_forward)$"),
}
"""Names of the layers of blocks, by kind."""


def find_layers(transformer: nn.Module, kind: str, blocks: str) -> list[Place]:
    """The layers of a kind, "attention", "cross_attention" or "mlp", in all blocks whose path matches a pattern.

    Raises:
        AttachError: no such block has one as a module of its own.
    """
    lists = find_block_lists(transformer)
    within = [f"{items.path}.{name}" for items in lists for name, _ in items.module.named_children()]
    found: list[Place] = []
    for block in within:
        if not fnmatchcase(block, blocks):
            continue
        inside = transformer.get_submodule(block)
        for path, _ in inside.named_modules():
            nested = any(f"{block}.{path}".startswith(f"{place.path}.") for place in found)
            if path and not nested and _layer_kind(path.rpartition(".")[2], inside) == kind:
                found.append(place_at(transformer, f"{block}.{path}"))
    if not found:
        where = "" if blocks == "*" else f" in blocks like {blocks!r}"
        raise AttachError(f"{type(transformer).__name__} has no {kind} that is a module of its own{where}")
    return found


def _layer_kind(name: str, block: nn.Module) -> str:
    """The kind of a layer by its name; SD3.5 has two self-attentions, `attn` and `attn2`, in a block."""
    for kind, pattern in LAYER_NAMES.items():
        if pattern.match(name):
            joint = name == "attn2" and "attn" in dict(block.named_children())
            return "attention" if joint else kind
    return ""
