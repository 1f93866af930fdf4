"""What transformer blocks take and return.

Needed only where some blocks run and others do not (points of kind `span` and `blocks`); the points
`trunk` and `output` know nothing of blocks.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from hyca_runtime.attach.wrappers import unwrapped
from hyca_runtime.errors import AttachError

Streams = Mapping[str, Tensor]
"""Tensors that come into a block, by the name of its argument."""


@dataclass(frozen=True)
class BlockIO:
    """Names of the arguments whose successors a block returns, in that order."""

    returns: tuple[str, ...]

    def inputs(self, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        """The values of those arguments in one call."""
        order = list(inspect.signature(forward).parameters)
        slots = [(name, order.index(name)) for name in self.returns]
        return tuple(args[i] if i < len(args) else kwargs.get(name) for name, i in slots)

    def named(self, values: Sequence[Any]) -> Streams:
        """Those of the values that are tensors, by name."""
        return {name: v for name, v in zip(self.returns, values, strict=False) if isinstance(v, Tensor)}


def _contracts(returns: tuple[str, ...], *classes: str) -> dict[str, BlockIO]:
    return dict.fromkeys(classes, BlockIO(returns))


BLOCK_IO: dict[str, BlockIO] = {
    **_contracts(
        ("encoder_hidden_states", "hidden_states"),
        "AuraFlowJointTransformerBlock",
        "BriaFiboTransformerBlock",
        "BriaSingleTransformerBlock",
        "BriaTransformerBlock",
        "ChromaTransformerBlock",
        "Flux2TransformerBlock",
        "Flux3SingleTransformerBlock",
        "FluxSingleTransformerBlock",
        "FluxTransformerBlock",
        "JointTransformerBlock",
        "LongCatImageSingleTransformerBlock",
        "LongCatImageTransformerBlock",
        "OvisImageSingleTransformerBlock",
        "OvisImageTransformerBlock",
        "QwenImageTransformerBlock",
    ),
    **_contracts(
        ("hidden_states", "encoder_hidden_states"),
        "CogVideoXBlock",
        "CogView3PlusTransformerBlock",
        "CogView4TransformerBlock",
        "ConsisIDBlock",
        "EasyAnimateTransformerBlock",
        "GlmImageTransformerBlock",
        "HiDreamImageTransformerBlock",
        "HunyuanImageSingleTransformerBlock",
        "HunyuanImageTransformerBlock",
        "HunyuanVideo15TransformerBlock",
        "HunyuanVideoSingleTransformerBlock",
        "HunyuanVideoTokenReplaceSingleTransformerBlock",
        "HunyuanVideoTokenReplaceTransformerBlock",
        "HunyuanVideoTransformerBlock",
        "JoyImageEditPlusTransformerBlock",
        "JoyImageTransformerBlock",
        "MochiTransformerBlock",
        "MotifVideoSingleTransformerBlock",
        "MotifVideoTransformerBlock",
    ),
    **_contracts(("hidden_states", "audio_hidden_states"), "LTX2VideoTransformerBlock"),
    **_contracts(("hidden_states", "control_hidden_states"), "WanVACETransformerBlock"),
    **_contracts(("und_seq", "gen_seq"), "Cosmos3VLTextMoTDecoderLayer"),
    **_contracts(("vis", "aud"), "Kandinsky6FusedTransformerDecoderBlock"),
}
"""Blocks with several streams, by class; any other is taken to have one, its first argument."""


def block_io(block: nn.Module) -> BlockIO:
    """The contract of a block: from the table, else that of a block with one stream.

    Raises:
        AttachError: the class is not in the table and its forward takes no argument.
    """
    block = unwrapped(block)
    inner = getattr(block, "block", block)  # HiDream wraps its blocks
    known = BLOCK_IO.get(type(inner).__name__)
    if known is not None:
        return known
    names = list(inspect.signature(block.forward).parameters)
    if not names:
        raise AttachError(f"what {type(block).__name__} takes and returns is not known; use the point 'output'")
    return BlockIO((names[0],))


MAIN_STREAMS = ("hidden_states", "gen_seq")
"""What blocks with several streams call the one of the latents, where it is not their first."""


def main_stream(coming: Streams) -> str:
    """The name of the stream that the final norm sees."""
    return next((name for name in MAIN_STREAMS if name in coming), next(iter(coming)))


def stream_like(coming: Streams, value: Tensor) -> Tensor | None:
    """The stream of the shape of `value`, the main one before others."""
    main = coming.get("hidden_states")
    if main is not None and main.shape == value.shape:
        return main
    return next((stream for stream in coming.values() if stream.shape == value.shape), None)


def streams(output: Any) -> tuple[Any, ...]:
    """The outputs of a block, one for each stream; some may be None."""
    return output if isinstance(output, tuple) else (output,)


def check_streams(block: nn.Module, inputs: tuple[Any, ...], outputs: tuple[Any, ...]) -> None:
    """Raises AttachError if a block does not do what its contract says."""
    shapes = [[tuple(t.shape) if isinstance(t, Tensor) else None for t in side] for side in (inputs, outputs)]
    same = len(inputs) == len(outputs) and all(b is None or a == b for a, b in zip(*shapes, strict=True))
    if not same:
        raise AttachError(
            f"{type(block).__name__} takes streams of shapes {shapes[0]} and returns {shapes[1]}; it cannot be passed "
            "by. Use the point 'trunk' or 'output', or keep the output of modules"
        )
