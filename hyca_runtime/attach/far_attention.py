"""Thinning the keys and values of the past that AnyFlowFARTransformer3DModel is handed by its pipeline."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from hyca_runtime.attach.forwards import Patch, Replacement
from hyca_runtime.errors import PlanMismatchError
from hyca_runtime.streaming.retention import Finished, Past, Retention, Shape
from hyca_runtime.streaming.segment import Segment, joined

FAR = "AnyFlowFARTransformer3DModel"


class _Now(threading.local):
    """What the network's rotation was told of the calling thread's latest call."""

    frame: tuple[int, int] = (0, 0)

    def __reduce__(self) -> tuple[type[_Now], tuple[()]]:
        return _Now, ()  # of a copy of the network, which nobody drives


class FarAttention:
    """The network's handle, from `install` until `remove`.

    Of finished chunks that are cached whole the layers attend to what a retention leaves; chunks that the network has
    compressed by itself stay as they are. The cache is the pipeline's and filled anew behind each chunk, so nothing is
    kept here. Keys keep the time that they were made at.

    Args:
        network: a `FAR` of diffusers.
        frames: of a chunk; the first of a video may have fewer.
        retention: what is kept.
        follows: whether the calling thread's calls follow the plan.
    """

    def __init__(self, network: nn.Module, frames: int, retention: Retention, follows: Callable[[], bool]) -> None:
        self._rope = network.get_submodule("rope")
        self._layers = [block.get_submodule("attn1") for block in network.get_submodule("blocks").children()]
        self._rotary: Any = self._rope.forward
        self._frames, self._retention, self.follows, self._now = frames, retention, follows, _Now()
        self._patches: list[Patch] = []

    def install(self) -> None:
        """Stand between the layers and the cache."""
        self._rotary = self._rope.forward
        self._patches = [Patch(self._rope, "forward", Replacement(self._rope, "forward", self._rotate))]
        for layer in self._layers:
            self._patches.append(Patch(layer, "processor", _Attend(layer.processor, self)))

    def remove(self) -> None:
        """Restore the layers."""
        while self._patches:
            self._patches.pop().remove()

    def _rotate(self, far_cfg: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        self._now.frame = far_cfg["full_frame_shape"]
        return self._rotary(far_cfg, *args, **kwargs)

    def kept(self, queries: Callable[[], Tensor], keys: Tensor, values: Tensor, chunks: int) -> Tensor:
        """Which cached tokens are attended to, ``(1, 1, kept)``, or of each head its own, ``(batch, head, kept)``.

        Args:
            queries: gives those of the call, rotated; asked for only where a retention looks at them.
            keys, values: ``(batch, head, token, channel)``, of the newest chunks, the keys rotated.
            chunks: how many there are in all.

        Raises:
            PlanMismatchError: chunks of another length.
        """
        shape, past = Shape(self._frames, *self._now.frame), Past()
        whole, short = divmod(keys.shape[2], shape.tokens)
        if short % shape.frame or (short and chunks > whole + 1):
            raise PlanMismatchError(
                f"the plan keeps keys of chunks of {self._frames} frames; got {keys.shape[2] // shape.frame} frames in "
                "the cache; expected a partition of equal chunks, of which the first may be shorter"
            )
        places = torch.arange(keys.shape[2], device=keys.device)[None, None]
        sizes = [*([short] if short else []), *[shape.tokens] * whole]
        cut = zip(*(torch.split(each, sizes, 2) for each in (keys, values, places)), strict=True)
        for number, parts in enumerate(cut, chunks - len(sizes)):
            past = self._retention.settle((*past, Finished(number, Segment(*parts))), shape)
        if type(self._retention).thin is not Retention.thin:
            past = self._retention.thin(past, queries(), shape)
        return joined([of.segment for of in past]).places


class _Attend:
    """In the place of a layer's processor, which it hands a part of the cache."""

    def __init__(self, inner: Any, far: FarAttention) -> None:
        self._inner, self._far = inner, far

    def __getattr__(self, name: str) -> Any:
        if name == "_inner":  # of a copy that is being made
            raise AttributeError(name)
        return getattr(self._inner, name)

    def __call__(self, attn: Any, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        cache, flag, rotary = (kwargs.get(name) for name in ("kv_cache", "kv_cache_flag", "rotary_emb"))
        if self._far.follows() and cache and flag and rotary and not flag["is_cache_step"]:
            kwargs |= self._thinned(attn, hidden_states, cache, flag, rotary)
        return self._inner(attn, hidden_states, *args, **kwargs)  # type: ignore[no-any-return]

    def _thinned(
        self,
        attn: Any,
        hidden_states: Tensor,
        cache: dict[str, Tensor],
        flag: dict[str, Any],
        rotary: dict[str, Tensor],
    ) -> dict[str, Any]:
        """The cache with what is kept of it, and the rotation of that; nothing where all is."""
        whole, before = flag["num_cached_full_tokens"], flag["num_cached_compressed_tokens"]
        if not whole:
            return {}
        full, turns = cache["full_cache"][:, :, :, :whole], rotary["key"][0, 0]

        def queries() -> Tensor:
            made = attn.norm_q(attn.to_q(hidden_states))
            return _turned(made.reshape(*made.shape[:2], attn.heads, -1).transpose(1, 2), rotary["query"])

        keys = _turned(full[0], turns[before : before + whole])
        kept = self._far.kept(queries, keys, full[1], flag["num_cached_chunks"])
        if kept.shape[2] == whole:
            return {}
        wide = kept.expand(*full.shape[1:3], -1)[None, ..., None].expand(2, -1, -1, -1, full.shape[-1])
        around = [turns[:before], turns[before + whole :]]
        first, last = (each.expand(*kept.shape[:2], -1, -1) for each in around)
        return {
            "kv_cache": {**cache, "full_cache": full.gather(3, wide)},
            "kv_cache_flag": {**flag, "num_cached_full_tokens": kept.shape[2]},
            "rotary_emb": {**rotary, "key": torch.cat([first, turns[before + kept], last], 2)},
        }


def _turned(tensor: Tensor, turns: Tensor) -> Tensor:
    """Pairs of neighbouring channels turned by complex numbers."""
    pairs = torch.view_as_complex(tensor.to(turns.real.dtype).reshape(*tensor.shape[:-1], -1, 2))
    return torch.view_as_real(pairs * turns).flatten(-2).to(tensor.dtype)
