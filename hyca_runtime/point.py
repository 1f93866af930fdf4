"""Where in the network a feature is kept and predicted."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

__all__ = ["CachePoint"]


class CachePoint(BaseModel):
    """One tensor of the network that stands for all the work before it.

    ``trunk`` is the input of the final norm: on a predicted step no transformer block runs, while
    the final modulation and projection are live. ``output`` is what the network returns: nothing
    runs at all, and nothing about the architecture need be known.

    Attributes:
        kind: which tensor.
        channel_axis: the axis of that tensor that counts feature dimensions.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    kind: Literal["trunk", "output"] = "trunk"
    channel_axis: int = -1
