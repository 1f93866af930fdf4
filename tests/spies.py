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


class Witness:
    """What goes into the first block, comes out of the leading ones, and reaches the final norm, call by call."""

    def __init__(self, network: Any, blocks: int) -> None:
        self.entered, self.reached, self.ended = list[Tensor](), list[Tensor](), list[Tensor]()
        every = [*network.transformer_blocks, *network.single_transformer_blocks]
        self.calls = [0] * len(every)
        self._hooks = [
            block.register_forward_pre_hook(lambda *_, i=i: self.calls.__setitem__(i, self.calls[i] + 1))
            for i, block in enumerate(every)
        ]
        self._hooks += [
            network.x_embedder.register_forward_hook(lambda *a: self.entered.append(a[-1])),
            every[blocks - 1].register_forward_hook(lambda *a: self.reached.append(a[-1][1])),
            network.norm_out.register_forward_pre_hook(lambda _, args: self.ended.append(args[0])),
        ]

    def remove(self) -> None:
        for hook in self._hooks:
            hook.remove()
