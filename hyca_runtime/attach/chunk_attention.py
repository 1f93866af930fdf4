"""Letting a block-causal network run on one chunk of its video, which attends to kept keys and values of the others."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from hyca_runtime.attach.forwards import Patch, Replacement
from hyca_runtime.errors import AttachError, PlanMismatchError
from hyca_runtime.streaming.key_store import KeyStore
from hyca_runtime.streaming.retention import Shape
from hyca_runtime.streaming.rotation import TemporalRotation
from hyca_runtime.streaming.segment import Segment

HOST = "SkyReelsV2Transformer3DModel"
"""The network of diffusers whose self-attention is known."""


class Place(NamedTuple):
    """The chunk that a call is of.

    Attributes:
        store: of its video.
        chunk: its number.
        shape: of a chunk.
    """

    store: KeyStore
    chunk: int
    shape: Shape


class _Now(threading.local):
    """The chunk that the calling thread is at, None where it calls the network on all of its video."""

    place: Place | None = None

    def __reduce__(self) -> tuple[type[_Now], tuple[()]]:
        return _Now, ()  # of a copy of the network, which nobody drives


class ChunkAttention:
    """The network's handle, from `install` until `remove`.

    Args:
        network: a `HOST` of diffusers.

    Raises:
        AttachError: it is another network, or one with fused projections.
    """

    def __init__(self, network: nn.Module) -> None:
        if HOST not in {kind.__name__ for kind in type(network).__mro__}:
            raise AttachError(
                f"plans that keep keys and values of chunks know the attention of {HOST}, got "
                f"{type(network).__name__}; apply a plan whose chunks have no keys"
            )
        self._network, self._rope = network, network.get_submodule("rope")
        self._rotary: Any = self._rope.forward
        self._layers = [block.get_submodule("attn1") for block in network.get_submodule("blocks").children()]
        if any(getattr(layer, "fused_projections", False) for layer in self._layers):
            raise AttachError(f"the projections of {HOST} are fused; call unfuse_qkv_projections() before apply_plan")
        self._frame_patch = int(network.config.patch_size[0])  # type: ignore[union-attr, index]
        self._now = _Now()
        self._patches: list[Patch] = []
        self.rotation = TemporalRotation(channels=int(cast(Any, self._rope).t_dim))

    @property
    def layers(self) -> int:
        """How many attend to the video."""
        return len(self._layers)

    @property
    def place(self) -> Place | None:
        """The chunk that the calling thread's calls are of, if they are of one."""
        return self._now.place

    def shape(self, latents: Tensor, frames: int) -> Shape:
        """Of a chunk of so many frames.

        Args:
            latents: ``(batch, channel, frame, row, column)``.

        Raises:
            PlanMismatchError: the network lets frames look at others than those of chunks so long and before.
        """
        config: Any = self._network.config
        if frames == 1 or config.num_frame_per_block != frames:
            raise PlanMismatchError(
                f"the plan makes chunks of {frames} frames one by one, but the network's attention is causal over "
                f"blocks of {config.num_frame_per_block} (1 is for none); call it with causal_block_size={frames}, or "
                "apply a plan whose chunks have no keys"
            )
        _, height, width = config.patch_size
        return Shape(frames, latents.shape[3] // height, latents.shape[4] // width)

    @contextmanager
    def at(self, place: Place) -> Iterator[None]:
        """Let calls of this thread be of one chunk."""
        before, self._now.place = self._now.place, place
        try:
            yield
        finally:
            self._now.place = before

    def install(self) -> None:
        """Stand between the layers and what they attend to."""
        self._rotary = self._rope.forward
        self._patches = [Patch(self._rope, "forward", Replacement(self._rope, "forward", self._rotate))]
        for number, layer in enumerate(self._layers):
            attend = _Attend(number, layer.processor, self._now)
            self._patches.append(Patch(layer, "processor", attend))

    def remove(self) -> None:
        """Restore the layers."""
        while self._patches:
            self._patches.pop().remove()

    def _rotate(self, hidden_states: Tensor) -> tuple[Tensor, Tensor]:
        """The rotation of a chunk's tokens: those of a video that ends with it."""
        place = self._now.place
        if place is None:
            return self._rotary(hidden_states)  # type: ignore[no-any-return]
        start = place.store.start(place.chunk, place.shape.frames) * self._frame_patch
        frames = start + hidden_states.shape[2]
        until = hidden_states[:, :, :1].expand(-1, -1, frames, -1, -1)
        cos, sin = self._rotary(until)
        tokens = cos.shape[1] * hidden_states.shape[2] // frames
        return cos[:, -tokens:], sin[:, -tokens:]


class _Attend:
    """In the place of a layer's processor."""

    def __init__(self, layer: int, inner: Any, now: _Now) -> None:
        self._layer, self._inner, self._now = layer, inner, now

    def __getattr__(self, name: str) -> Any:
        if name == "_inner":  # of a copy that is being made
            raise AttributeError(name)
        return getattr(self._inner, name)

    def __call__(
        self,
        attn: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        place = self._now.place
        if place is None or rotary_emb is None:
            return self._inner(attn, hidden_states, encoder_hidden_states, attention_mask, rotary_emb)  # type: ignore[no-any-return]
        queries = _rotated(_by_head(attn.norm_q(attn.to_q(hidden_states)), attn.heads), *rotary_emb)
        keys = _rotated(_by_head(attn.norm_k(attn.to_k(hidden_states)), attn.heads), *rotary_emb)
        values = _by_head(attn.to_v(hidden_states), attn.heads)
        first = place.chunk * place.shape.tokens
        numbers = torch.arange(first, first + keys.shape[2], device=keys.device)[None, None]
        own = Segment(keys, values, numbers)
        seen = place.store.exchange(self._layer, place.chunk, queries, own, place.shape)
        answer = functional.scaled_dot_product_attention(queries, seen.keys, seen.values)
        return attn.to_out[1](attn.to_out[0](answer.transpose(1, 2).flatten(2)))  # type: ignore[no-any-return]


def _by_head(tensor: Tensor, heads: int) -> Tensor:
    """``(batch, head, token, channel)`` of ``(batch, token, head * channel)``."""
    return tensor.reshape(*tensor.shape[:2], heads, -1).transpose(1, 2)


def _rotated(tensor: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Pairs of neighbouring channels turned by their angles, which the network gives twice each, in ``(1, token, 1,
    channel)``."""
    cos, sin = cos[..., 0::2].transpose(1, 2), sin[..., 1::2].transpose(1, 2)
    first, second = tensor[..., 0::2], tensor[..., 1::2]
    turned = torch.stack([first * cos - second * sin, first * sin + second * cos], -1).flatten(-2)
    return turned.to(tensor.dtype)
