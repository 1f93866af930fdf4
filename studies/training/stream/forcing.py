"""Diffusion forcing (Chen et al. 2024): a rectified flow of chunks that are each at a time of their own."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from hyca_calib.demo.emoji.text import PAD
from studies.training.flow import FlowRecipe


@dataclass(frozen=True)
class ForcingRecipe(FlowRecipe):
    """What decides the times of chunks.

    Attributes:
        shift: of all times, as the scheduler's.
        chunk: latent frames of a chunk.
        streams: share of the samples whose chunks before some place are clean, as those that are finished.
    """

    shift: float = 3.0
    chunk: int = 3
    streams: float = 0.5


def chunk_times(samples: int, chunks: int, recipe: ForcingRecipe, generator: torch.Generator) -> Tensor:
    """Times ``(sample, chunk)``: logit-normal and independent; of a stream 0 up to a random place."""
    t = torch.sigmoid(torch.randn(samples, chunks, generator=generator))
    t = recipe.shift * t / (1 + (recipe.shift - 1) * t)
    streams = torch.rand(samples, 1, generator=generator) < recipe.streams
    place = torch.randint(chunks, (samples, 1), generator=generator)
    return t.masked_fill(streams & (torch.arange(chunks) < place), 0.0)


def forcing_loss(
    clean: Tensor, words: Tensor, recipe: ForcingRecipe
) -> Callable[[Callable[..., Tensor], torch.Generator], Tensor]:
    """The mean squared velocity error of a random batch, over chunks that are not clean.

    Args:
        clean: clips ``(clip, channel, frame, row, column)``.
        words: of each clip.
    """
    chunks = clean.shape[2] // recipe.chunk

    def loss_of(model: Callable[..., Tensor], generator: torch.Generator) -> Tensor:
        pick = torch.randint(len(clean), (recipe.batch,), generator=generator).to(clean.device)
        dropped = torch.rand(recipe.batch, 1, generator=generator).to(clean.device) < recipe.drop_prompt
        t = chunk_times(recipe.batch, chunks, recipe, generator).to(clean.device)
        frames = t.repeat_interleave(recipe.chunk, 1)
        own = clean[pick].float()
        noise = torch.randn(own.shape, generator=generator).to(clean.device)
        noisy = torch.lerp(own, noise, frames[:, None, :, None, None])
        with torch.autocast(clean.device.type, torch.bfloat16):
            velocity = model(noisy, frames, words[pick].masked_fill(dropped, PAD))
        error = (velocity.float() - (noise - own)).square().mean((1, 3, 4))
        counted = (frames > 0).float()
        return (error * counted).sum() / counted.sum()

    return loss_of
