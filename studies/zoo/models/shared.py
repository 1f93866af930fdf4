"""What the tiny models have in common: parts of configurations and of inputs."""

import torch
from torch import Tensor

from studies.zoo.base import Kwargs, Randn

TWO_BLOCKS: Kwargs = {"num_layers": 2, "num_attention_heads": 2, "attention_head_dim": 16}
FOUR_CHANNELS: Kwargs = {"in_channels": 4, "out_channels": 4}
WAN: Kwargs = TWO_BLOCKS | FOUR_CHANNELS | {"text_dim": 32, "freq_dim": 32, "ffn_dim": 64}


def basics(
    batch: int,
    noise: float,
    randn: Randn,
    latents: tuple[int, ...],
    prompt: tuple[int, ...] = (8, 32),
    top: float = 1000,
) -> Kwargs:
    """Latents and a prompt of these shapes, and the time, from `top` down to 0."""
    return {
        "hidden_states": randn(batch, *latents),
        "encoder_hidden_states": randn(batch, *prompt),
        "timestep": torch.full((batch,), float(top * noise)),
    }


def whole_step(batch: int, noise: float) -> Tensor:
    """Timestep of discrete schedulers, 999 to 0."""
    return torch.full((batch,), round(999 * noise))


def ragged_mask(batch: int, length: int) -> Tensor:
    """Of prompts padded on the right: one token of padding in the first, two in the second, ..."""
    return (torch.arange(length) < length - 1 - torch.arange(batch)[:, None]).long()


def padded_mask(batch: int, length: int) -> Tensor:
    """Of prompts that all end with two tokens of padding."""
    return (torch.arange(length) < length - 2).long().repeat(batch, 1)


def grid(frames: int, height: int, width: int) -> Tensor:
    """Frame, row and column of every token."""
    return torch.cartesian_prod(*(torch.arange(float(size)) for size in (frames, height, width)))


def rotary_pairs(length: int, width: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines of positions; two neighbouring channels share a frequency."""
    angles = torch.outer(torch.arange(float(length)), 0.1 ** torch.linspace(0, 2, width // 2))
    return angles.cos().repeat_interleave(2, dim=-1), angles.sin().repeat_interleave(2, dim=-1)


def rotary_halves(length: int, width: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines of positions; both halves of the channels have the same frequencies."""
    angles = torch.outer(torch.arange(float(length)), 10000.0 ** (-torch.arange(0, width, 2) / width))
    return angles.cos().repeat(1, 2), angles.sin().repeat(1, 2)
