"""Kandinsky 5 and 6."""

import torch

from studies.zoo.base import Kwargs, Randn, tiny_model
from studies.zoo.models.shared import basics

VISUAL: Kwargs = {
    "in_visual_dim": 4, "out_visual_dim": 4, "time_dim": 32, "model_dim": 32, "ff_dim": 64, "num_visual_blocks": 2,
    "axes_dims": (4, 6, 6),
}  # fmt: skip
WITH_TEXT: Kwargs = VISUAL | {"in_text_dim": 32, "in_text_dim2": 32, "num_text_blocks": 2, "patch_size": (1, 2, 2)}


@tiny_model("Kandinsky5Transformer3DModel", WITH_TEXT)
def kandinsky5(batch: int, noise: float, randn: Randn) -> Kwargs:
    """The text runs through blocks of its own before the video."""
    return basics(batch, noise, randn, (2, 8, 8, 4), (6, 32)) | {
        "pooled_projections": randn(batch, 32),
        "visual_rope_pos": tuple(torch.arange(size) for size in (2, 4, 4)),
        "text_rope_pos": torch.arange(6),
    }


@tiny_model(
    "Kandinsky6Transformer3DModel", WITH_TEXT,
    in_audio_dim=8, out_audio_dim=8, ca_rope=True, cross_gates=True, fix_modulation=True,
)  # fmt: skip
def kandinsky6(batch: int, noise: float, randn: Randn) -> Kwargs:
    """Video and sound are denoised together and leave through two output layers."""
    return {
        "hidden_states": torch.cat([randn(batch, 2, 8, 8, 4), torch.zeros(batch, 2, 8, 8, 5)], dim=-1),
        "audio_hidden_states": randn(batch, 8, 8),
        "encoder_hidden_states": randn(batch, 6, 32),
        "pooled_projections": randn(batch, 32),
        "timestep": torch.full((batch,), 1000 * noise),
    }


@tiny_model("Kandinsky6SRTransformer3DModel", VISUAL)
def kandinsky6_sr(batch: int, noise: float, randn: Randn) -> Kwargs:
    """A latent tile, an anchor and its mask; tokens come in groups of eight by eight."""
    return {
        "hidden_states": torch.cat([randn(batch, 1, 8, 8, 4), torch.zeros(batch, 1, 8, 8, 5)], dim=-1),
        "timestep": torch.full((batch,), 1000 * noise),
    }
