"""What tells one architecture from another."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from torch import nn

NOT_ARCHITECTURE = frozenset({"dtype", "quantization_config", "torch_dtype", "transformers_version"})
"""Entries of a configuration that say how the weights of the same network are stored, or by what."""


def config_digest(module: nn.Module) -> str:
    """SHA-256 of a network's configuration, without names of files and versions and without the weights' precision.

    A module that has no configuration is described by the names and shapes of its parameters.
    """
    config = getattr(module, "config", None)
    if isinstance(config, Mapping):
        kept = (key for key in config if not key.startswith("_") and key not in NOT_ARCHITECTURE)
        facts: Any = {key: config[key] for key in kept}
    else:
        facts = [(name, list(p.shape)) for name, p in module.named_parameters()]
    text = json.dumps(facts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()
