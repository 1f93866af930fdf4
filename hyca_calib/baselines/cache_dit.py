"""cache-dit on a network, with an adapter by hand where it has none; imported only where it is used."""

from __future__ import annotations

import importlib
import logging
import os
import re
from collections.abc import Sequence
from typing import Any

from torch import nn

from hyca_runtime.attach.block_io import block_io
from hyca_runtime.attach.points import Place, find_block_lists

__all__ = ["adapter_by_hand", "carriers", "forward_pattern", "package"]


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


def adapter_by_hand(lists: Sequence[Place], pipe: Any) -> Any:
    """The adapter that a user writes for a network that cache-dit does not know."""
    cache_dit, network = package(), pipe.transformer
    return cache_dit.BlockAdapter(
        pipe=pipe,
        transformer=network,
        blocks=[network.get_submodule(place.path) for place in lists],
        forward_pattern=[getattr(cache_dit.ForwardPattern, forward_pattern(place)) for place in lists],
        check_forward_pattern=False,
    )


def carriers(module: nn.Module) -> list[list[Place]]:
    """The lists of blocks that carry the latents: all together, then the last alone."""
    lists = [p for p in find_block_lists(module) if p.parent is module and not re.search("refiner|text|vace", p.name)]
    return [part for part in (lists, lists[-1:] if len(lists) > 1 else []) if part]


def forward_pattern(blocks: Place) -> str:
    """The pattern of a list of blocks by what they return."""
    returns = block_io(next(iter(blocks.module.children()))).returns
    if len(returns) == 1:
        return "Pattern_3"
    return "Pattern_1" if returns[0] == "encoder_hidden_states" else "Pattern_0"
