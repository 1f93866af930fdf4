"""What a network is called with, for policies that decide before it runs."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Any

from torch import OutOfMemoryError, Tensor, nn

from hyca_runtime.errors import AttachError
from hyca_runtime.stacked import latents_of

EMBEDDINGS = ("patch_embedding", "x_embedder", "img_in", "proj_in")
"""Names of what embeds the latents, where that is all it does."""


class Arrival:
    """The input of one network.

    Args:
        turn: what a call holds while somebody stands in for a part of the network.
    """

    def __init__(self, network: nn.Module, turn: AbstractContextManager[object]) -> None:
        self._network, self._turn = network, turn
        self._name = next((name for name in EMBEDDINGS if isinstance(getattr(network, name, None), nn.Module)), "")

    def check(self, looks: Iterable[str]) -> None:
        """Whether what is asked for, "latents" or "embedding", can be shown; other words mean nothing here.

        Raises:
            AttachError: the network embeds its latents in no way that is known.
        """
        if "embedding" in looks and not self._name:
            raise AttachError(
                f"the plan looks at embedded latents, but {type(self._network).__name__} has none of "
                f'{", ".join(EMBEDDINGS)}; let its policy look at "latents"'
            )

    def of(self, looks: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
        """The latents of a call ``(sample, ...)``, perhaps embedded; None where each sample has another shape.

        Raises:
            AttachError: the network does not embed them as they come.
        """
        latents = latents_of(args, kwargs)
        if latents is None or looks == "latents":
            return latents
        try:
            with self._turn:
                found: Tensor = self._network.get_submodule(self._name)(latents)
        except OutOfMemoryError:
            raise
        except RuntimeError as failure:  # AnyFlow's frames come before channels
            name, shape = f"{type(self._network).__name__}.{self._name}", tuple(latents.shape)
            raise AttachError(
                f"the plan looks at embedded latents, but {name} does not take them as they come, {shape}; "
                'let its policy look at "latents"'
            ) from failure
        return found
