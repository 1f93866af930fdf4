"""What a gradient through a rollout computes again instead of keeping it, level by level: the deeper, the less memory.

Gradients are the same at all of them.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

from torch import nn

Recomputed = Literal["nothing", "calls", "blocks"]
"""Nothing: all activations are kept. Calls: of the network, each computed again when its gradient is due. Blocks: each
of them again within such a call, as networks of diffusers can."""

SWITCHES = ("gradient_checkpointing", "_gradient_checkpointing_func")
"""What diffusers sets on every module that has blocks."""


def levels_of(module: nn.Module) -> tuple[Recomputed, ...]:
    """The levels that a network knows, that with the least work first."""
    in_blocks = getattr(module, "_supports_gradient_checkpointing", False)
    return ("nothing", "calls", "blocks") if in_blocks else ("nothing", "calls")


@contextmanager
def recomputing(module: nn.Module, level: Recomputed) -> Iterator[None]:
    """Let the network compute its blocks again, if the level says so; afterwards it is exactly as it was found."""
    if level != "blocks":
        yield
        return
    found = {part: {name: vars(part)[name] for name in SWITCHES if name in vars(part)} for part in module.modules()}
    network: Any = module
    network.enable_gradient_checkpointing()
    try:
        yield
    finally:
        for part, switches in found.items():
            for name in SWITCHES:
                vars(part).pop(name, None)
            vars(part).update(switches)
