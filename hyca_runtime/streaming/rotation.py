"""Moving rotated keys in time."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class TemporalRotation:
    r"""How a network turns the channels of a key by the time of its token: pairs of neighbours, first of each head.

    The j-th pair is turned by :math:`t\,\theta^{-2j/n}`, with the n temporal channels. A turn by t after one by s is
    one by t + s, and products of queries and keys only see differences of time.

    Attributes:
        channels: how many are turned by time; the others by row and column, or not at all.
        theta: the base.
    """

    channels: int
    theta: float = 10000.0

    def moved(self, rotated: Tensor, frames: int) -> Tensor:
        """Keys or queries ``(..., channel)`` as they would be so many frames later.

        Args:
            frames: negative for earlier; by 0 they stay the very same.
        """
        if not frames:
            return rotated
        pairs = torch.arange(0, self.channels, 2, dtype=torch.float64)  # on the host: not every device has float64
        angles = frames * self.theta ** (-pairs / self.channels)
        wide = torch.promote_types(rotated.dtype, torch.float32)
        cos, sin = (of.to(rotated.device, wide) for of in (angles.cos(), angles.sin()))
        turned, rest = rotated[..., : self.channels].to(wide), rotated[..., self.channels :]
        first, second = turned[..., 0::2], turned[..., 1::2]
        turned = torch.stack([first * cos - second * sin, first * sin + second * cos], -1).flatten(-2)
        return torch.cat([turned.to(rotated.dtype), rest], -1)
