"""The weights of a network: which they are, and how they are stored."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from hyca_runtime.errors import WorkloadError

SHOWN = 0.01
"""Share of a network's numbers that a data type must have to be told of."""


def weights_digest(module: nn.Module, probes: int = 64) -> str:
    """SHA-256 over names, shapes and `probes` values of every parameter: cheap for any size."""
    digest = hashlib.sha256()
    for name, parameter in sorted(module.named_parameters()):
        digest.update(f"{name}{tuple(parameter.shape)}".encode())
        for stored in _stored(_real(module, name, parameter)):
            flat = stored.detach().flatten()
            if flat.numel():
                last = flat.numel() - 1
                # float32 may round up
                picks = torch.linspace(0, last, min(probes, flat.numel())).long().clamp(max=last)
                digest.update(flat[picks.to(flat.device)].float().cpu().numpy().tobytes())
    return digest.hexdigest()


def precision_of(module: nn.Module) -> str:
    """How a network's weights are stored, in words: ``bfloat16``, or ``torchao: int8, bfloat16``.

    The data types of its numbers, the most frequent first, and before them who quantised it if its configuration says.
    """
    numbers = Counter[str]()
    for name, parameter in module.named_parameters():
        for stored in _stored(_real(module, name, parameter)):
            numbers[str(stored.dtype).removeprefix("torch.")] += stored.numel()
    types = ", ".join(name for name, count in numbers.most_common() if count >= SHOWN * numbers.total())
    config = getattr(module, "config", None)
    by = _quantiser(config.get("quantization_config")) if isinstance(config, Mapping) else ""
    return f"{by}: {types}" if by else types


def _quantiser(quantised: Any) -> str:
    """The name of the library in a quantisation's configuration, which may be an object or read from JSON."""
    known = (
        quantised.get("quant_method") if isinstance(quantised, Mapping) else getattr(quantised, "quant_method", None)
    )
    return "" if known is None else str(getattr(known, "value", known))


def _stored(tensor: Tensor) -> Iterator[Tensor]:
    """The plain tensors that a weight consists of: itself, or of a quantised one its numbers and scales."""
    if not hasattr(tensor, "__tensor_flatten__"):
        yield tensor
        return
    for name in tensor.__tensor_flatten__()[0]:
        yield from _stored(getattr(tensor, name))


def _real(module: nn.Module, name: str, parameter: Tensor) -> Tensor:
    """The values of a weight that accelerate has moved away and brings back for every call."""
    if not parameter.is_meta:
        return parameter
    owner, _, leaf = name.rpartition(".")
    kept = getattr(getattr(module.get_submodule(owner), "_hf_hook", None), "weights_map", None)
    if kept is None:
        raise WorkloadError(f"weight {name} of {type(module).__name__} is on the meta device; load the model first")
    found: Tensor = kept[leaf]
    return found
