"""What tells one network from another: its architecture, and its weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hyca_runtime.errors import WorkloadError

NOT_ARCHITECTURE = frozenset({"dtype", "quantization_config", "torch_dtype", "transformers_version"})
"""Entries of a configuration that say how the weights of the same network are stored, or by what."""


def config_digest(module: nn.Module, **said: Any) -> str:
    """SHA-256 of a network's configuration, without names of files and versions and without the weights' precision.

    A module that has no configuration is described by the names and shapes of its parameters.

    Args:
        said: entries that are said with every call, as they are then; those that the configuration lacks do not count.
    """
    config = getattr(module, "config", None)
    if isinstance(config, Mapping):
        kept = (key for key in config if not key.startswith("_") and key not in NOT_ARCHITECTURE)
        facts: Any = {key: said.get(key, config[key]) for key in kept}
    else:
        facts = [(name, list(p.shape)) for name, p in module.named_parameters()]
    text = json.dumps(facts, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def weights_digest(module: nn.Module, probes: int | None = 64) -> str:
    """SHA-256 over names, shapes and values of every parameter and every buffer that comes with the weights.

    Args:
        probes: so many values of each, which is cheap for any size; None takes every bit.
    """
    digest = hashlib.sha256()
    for name, parameter in sorted([*module.named_parameters(), *_kept_buffers(module)]):
        digest.update(f"{name}{tuple(parameter.shape)}".encode())
        for stored in stored_in(real_values(module, name, parameter)):
            flat = stored.detach().flatten()
            if probes is None:
                digest.update(flat.cpu().view(torch.uint8).numpy().tobytes())
            elif flat.numel():
                last = flat.numel() - 1
                # float32 may round up
                picks = torch.linspace(0, last, min(probes, flat.numel())).long().clamp(max=last)
                digest.update(flat[picks.to(flat.device)].float().cpu().numpy().tobytes())
    return digest.hexdigest()


def _kept_buffers(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Those that are in the state dict."""
    for path, inner in module.named_modules():
        for name, buffer in inner.named_buffers(recurse=False):
            if name not in inner._non_persistent_buffers_set:  # noqa: SLF001  (torch has no other word for it)
                yield f"{path}.{name}".lstrip("."), buffer


def stored_in(tensor: Tensor) -> Iterator[Tensor]:
    """The plain tensors that a weight consists of: itself, or of a quantised one its numbers and scales."""
    if not hasattr(tensor, "__tensor_flatten__"):
        yield tensor
        return
    for name in tensor.__tensor_flatten__()[0]:
        yield from stored_in(getattr(tensor, name))


def real_values(module: nn.Module, name: str, parameter: Tensor) -> Tensor:
    """The values of a weight that accelerate has moved away and brings back for every call."""
    if not parameter.is_meta:
        return parameter
    owner, _, leaf = name.rpartition(".")
    kept = getattr(getattr(module.get_submodule(owner), "_hf_hook", None), "weights_map", None)
    if kept is None:
        raise WorkloadError(f"weight {name} of {type(module).__name__} is on the meta device; load the model first")
    found: Tensor = kept[leaf]
    return found
