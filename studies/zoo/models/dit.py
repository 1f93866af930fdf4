"""DiT and its descendants for images."""

import torch

from studies.zoo.base import Kwargs, Randn, tiny_model
from studies.zoo.models.shared import FOUR_CHANNELS, TWO_BLOCKS, basics, ragged_mask, whole_step

CROSS: Kwargs = {"num_cross_attention_heads": 2, "cross_attention_head_dim": 16, "cross_attention_dim": 32}
"""Attention to the prompt, of Sana and Sana Video."""


@tiny_model("DiTTransformer2DModel", TWO_BLOCKS, in_channels=4, out_channels=8, sample_size=8)
def dit(batch: int, noise: float, randn: Randn) -> Kwargs:
    """Classes as prompts."""
    return {
        "hidden_states": randn(batch, 4, 8, 8),
        "timestep": whole_step(batch, noise),
        "class_labels": 1 + torch.arange(batch),
    }


@tiny_model(
    "PixArtTransformer2DModel", TWO_BLOCKS,
    num_attention_heads=3, in_channels=4, out_channels=8, sample_size=8, cross_attention_dim=48, caption_channels=32,
    use_additional_conditions=True,
)  # fmt: skip
def pixart(batch: int, noise: float, randn: Randn) -> Kwargs:
    """The first PixArt, conditioned on the size of the image."""
    return basics(batch, noise, randn, (4, 8, 8)) | {
        "encoder_attention_mask": ragged_mask(batch, 8),
        "timestep": whole_step(batch, noise),
        "added_cond_kwargs": {"resolution": torch.full((batch, 2), 64.0), "aspect_ratio": torch.ones(batch, 1)},
    }


@tiny_model(
    "SD3Transformer2DModel", TWO_BLOCKS, FOUR_CHANNELS,
    sample_size=8, joint_attention_dim=32, caption_projection_dim=32, pooled_projection_dim=32, pos_embed_max_size=8,
    dual_attention_layers=(0,), qk_norm="rms_norm",
)  # fmt: skip
def sd3(batch: int, noise: float, randn: Randn) -> Kwargs:
    """As SD 3.5 medium, with a second attention in the first block."""
    return basics(batch, noise, randn, (4, 8, 8)) | {"pooled_projections": randn(batch, 32)}


@tiny_model(
    "SanaTransformer2DModel", TWO_BLOCKS, CROSS, in_channels=8, out_channels=8, caption_channels=24, sample_size=4
)
def sana(batch: int, noise: float, randn: Randn) -> Kwargs:
    """Linear attention over an image."""
    return basics(batch, noise, randn, (8, 4, 4), (8, 24)) | {"encoder_attention_mask": ragged_mask(batch, 8)}
