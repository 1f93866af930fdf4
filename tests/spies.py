"""Ears on a network."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


def overhear(module: nn.Module) -> list[Tensor]:
    """The first argument of every call of `module` from now on."""
    heard: list[Tensor] = []
    inner = module.forward

    def forward(x: Tensor, *rest: Any) -> Any:
        heard.append(x)
        return inner(x, *rest)

    module.forward = forward
    return heard
