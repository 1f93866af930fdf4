"""In which numbers the weights of a network are stored."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from torch import nn

from hyca_runtime.fingerprint import real_values, stored_in

SHOWN = 0.01
"""Share of a network's numbers that a data type must have to be told of."""


def precision_of(module: nn.Module) -> str:
    """How a network's weights are stored, in words: ``bfloat16``, or ``torchao: int8, bfloat16``.

    The data types of its numbers, the most frequent first, and before them who quantised it if its configuration says.
    """
    numbers = Counter[str]()
    for name, parameter in module.named_parameters():
        for stored in stored_in(real_values(module, name, parameter)):
            numbers[str(stored.dtype).removeprefix("torch.")] += stored.numel()
    types = ", ".join(name for name, count in numbers.most_common() if count >= SHOWN * numbers.total())
    config = getattr(module, "config", None)
    by = _quantiser(config.get("quantization_config")) if isinstance(config, Mapping) else ""
    return f"{by}: {types}" if by else types


def is_rounded(precision: str) -> bool:
    """Whether most numbers have a byte or less, by what `precision_of` says."""
    most = precision.rpartition(": ")[2].split(", ")[0]
    return most.startswith(("int", "uint", "float8", "float4"))


def _quantiser(quantised: Any) -> str:
    """The name of the library in a quantisation's configuration, which may be an object or read from JSON."""
    known = (
        quantised.get("quant_method") if isinstance(quantised, Mapping) else getattr(quantised, "quant_method", None)
    )
    return "" if known is None else str(getattr(known, "value", known))
