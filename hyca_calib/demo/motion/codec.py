"""The video model's autoencoder: principal components of blocks of pixels in space and time."""

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor


class BlockCodec(ModelMixin, ConfigMixin):
    """A linear autoencoder; to a block of ``(frames, side, side)`` pixels belongs one latent vector."""

    basis: Tensor
    """``(block values, latent channels)``, columns orthonormal."""
    mean: Tensor
    scale: Tensor
    """Standard deviation of all latents before they are divided by it."""

    @register_to_config
    def __init__(self, frames: int = 4, side: int = 4, latent_channels: int = 48) -> None:
        super().__init__()
        values = 3 * frames * side * side
        self.register_buffer("basis", torch.eye(values)[:, :latent_channels].contiguous())
        self.register_buffer("mean", torch.zeros(values))
        self.register_buffer("scale", torch.ones(()))

    def fit(self, clips: Tensor) -> None:
        """Take mean and components from clips ``(B, 3, frames, height, width)``."""
        blocks = self._blocks(clips).flatten(0, 3).double()
        self.mean = blocks.mean(0).float()
        centred = blocks - self.mean
        _, vectors = torch.linalg.eigh(centred.T @ centred)
        self.basis = vectors.flip(1)[:, : self.config["latent_channels"]].float().contiguous()
        self.scale = (centred.float() @ self.basis).std()

    def encode(self, clips: Tensor) -> Tensor:
        """Clips ``(B, 3, frames, height, width)`` in [-1, 1] to latents ``(B, channels, frames', height', width')``."""
        latents = (self._blocks(clips) - self.mean) @ self.basis / self.scale
        return latents.movedim(-1, 1)

    def decode(self, latents: Tensor) -> Tensor:
        """Inverse of `encode`, but for what the components lack."""
        frames, side = self.config["frames"], self.config["side"]
        blocks = latents.movedim(1, -1) * self.scale @ self.basis.T + self.mean
        pixels = blocks.unflatten(-1, (3, frames, side, side))  # type: ignore[no-untyped-call]
        # (B, F, H, W, 3, f, s, s) to (B, 3, F f, H s, W s)
        return pixels.permute(0, 4, 1, 5, 2, 6, 3, 7).flatten(2, 3).flatten(3, 4).flatten(4, 5)  # type: ignore[no-any-return]

    def _blocks(self, clips: Tensor) -> Tensor:
        """``(B, F, H, W, block values)``."""
        frames, side = self.config["frames"], self.config["side"]
        batch, channels, length, height, width = clips.shape
        cut = clips.reshape(batch, channels, length // frames, frames, height // side, side, width // side, side)
        return cut.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4)
