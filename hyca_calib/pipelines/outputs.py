"""What a network returns, as a list."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor


def tensors_of(output: Any) -> list[Tensor]:
    """All tensors of a nested output, in order."""
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, Mapping):
        output = list(output.values())
    return [t for item in output for t in tensors_of(item)] if isinstance(output, tuple | list) else []
