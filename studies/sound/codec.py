"""The sound model's autoencoder: a lapped cosine transform."""

import math

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor


class LappedCodec(ModelMixin, ConfigMixin):
    """The modified discrete cosine transform (Princen and Bradley 1986) of a waveform that is closed to a ring.

    Frames of twice `hop` samples overlap by half under a sine window, which makes the transform orthonormal: nothing is
    lost, and errors of latents are errors of sound, but for the scale of each band.
    """

    basis: Tensor
    """``(2 hop, hop)``: samples of a frame, bands."""
    scale: Tensor
    """``(hop,)``: what a band is divided by."""

    @register_to_config
    def __init__(self, hop: int = 64) -> None:
        super().__init__()
        sample, band = torch.arange(2 * hop).double().unsqueeze(1), torch.arange(hop).double()
        window = torch.sin(math.pi * (sample + 0.5) / (2 * hop))
        waves = torch.cos(math.pi / hop * (sample + 0.5 + hop / 2) * (band + 0.5))
        self.register_buffer("basis", (math.sqrt(2 / hop) * window * waves).float())
        self.register_buffer("scale", torch.ones(hop))

    def fit(self, sounds: Tensor, floor: float = 0.1) -> None:
        """Take the bands' scales from waveforms ``(B, length)``; quiet bands are raised to `floor` of the loudest."""
        self.scale = torch.ones_like(self.scale)
        spread = self.encode(sounds).std((0, 2))
        self.scale = spread.clamp(min=floor * spread.max().item())

    def encode(self, sounds: Tensor) -> Tensor:
        """Waveforms ``(B, length)``, a multiple of `hop`, to latents ``(B, bands, length / hop)``."""
        parts = sounds.unflatten(-1, (-1, self.config["hop"]))  # type: ignore[no-untyped-call]
        frames = torch.cat([parts, parts.roll(-1, 1)], -1)
        return (frames @ self.basis / self.scale).movedim(-1, 1)

    def decode(self, latents: Tensor) -> Tensor:
        """Inverse of `encode`."""
        first, second = (latents.movedim(1, -1) * self.scale @ self.basis.T).chunk(2, -1)
        return (first + second.roll(1, 1)).flatten(1)
