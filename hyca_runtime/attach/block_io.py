"""What transformer blocks take and return: the only per-model knowledge of the runtime.

On a predicted step every block hands its inputs on unchanged, in the form its caller unpacks. That
form is all that must be known of a block class.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

__all__ = ["BLOCK_IO", "BlockIO", "pass_through"]


@dataclass(frozen=True)
class BlockIO:
    """Names of the arguments a block returns, in the order it returns them."""

    returns: tuple[str, ...]


IMAGE = BlockIO(("hidden_states",))
IMAGE_TEXT = BlockIO(("hidden_states", "encoder_hidden_states"))
TEXT_IMAGE = BlockIO(("encoder_hidden_states", "hidden_states"))

BLOCK_IO: dict[str, BlockIO] = {
    "BasicTransformerBlock": IMAGE,
    "CogVideoXBlock": IMAGE_TEXT,
    "FluxSingleTransformerBlock": TEXT_IMAGE,
    "FluxTransformerBlock": TEXT_IMAGE,
    "HunyuanVideoSingleTransformerBlock": IMAGE_TEXT,
    "HunyuanVideoTransformerBlock": IMAGE_TEXT,
    "JointTransformerBlock": TEXT_IMAGE,
    "LTXVideoTransformerBlock": IMAGE,
    "QwenImageTransformerBlock": TEXT_IMAGE,
    "SanaTransformerBlock": IMAGE,
    "WanTransformerBlock": IMAGE,
}
"""Block class name -> contract."""


def pass_through(block: nn.Module) -> Callable[[tuple[Any, ...], dict[str, Any]], Any]:
    """A function of the block's arguments that returns them in the block's own output form.

    Raises:
        KeyError: the class is not in `BLOCK_IO`.
    """
    returns = BLOCK_IO[type(block).__name__].returns
    order = list(inspect.signature(block.forward).parameters)
    slots = [(name, order.index(name)) for name in returns]

    def hand_on(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        values = tuple(args[i] if i < len(args) else kwargs.get(name) for name, i in slots)
        return values if len(values) > 1 else values[0]

    return hand_on
