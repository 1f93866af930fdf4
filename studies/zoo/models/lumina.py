"""Lumina and Z-Image; their time runs from 0 to 1."""

import torch

from studies.zoo.base import Kwargs, Randn, tiny_model
from studies.zoo.models.shared import basics, ragged_mask

LUMINA: Kwargs = {
    "sample_size": 8, "in_channels": 4, "hidden_size": 32, "num_layers": 2, "num_attention_heads": 2,
    "num_kv_heads": 1, "multiple_of": 32,
}  # fmt: skip


@tiny_model(
    "ZImageTransformer2DModel",
    in_channels=4, dim=32, n_layers=2, n_refiner_layers=2, n_heads=2, n_kv_heads=2, cap_feat_dim=24,
    axes_dims=[4, 6, 6], axes_lens=[128, 16, 16],
)  # fmt: skip
def z_image(batch: int, noise: float, randn: Randn) -> Kwargs:
    """Lists of samples and of prompts."""
    return {
        "x": list(randn(batch, 4, 1, 8, 8)),
        "t": torch.full((batch,), 1 - noise),
        "cap_feats": [prompt[: 8 - i] for i, prompt in enumerate(randn(batch, 8, 24))],
    }


@tiny_model(
    "Lumina2Transformer2DModel", LUMINA,
    num_refiner_layers=2, axes_dim_rope=(4, 6, 6), axes_lens=(32, 16, 16), cap_feat_dim=24,
)  # fmt: skip
def lumina2(batch: int, noise: float, randn: Randn) -> Kwargs:
    """Lumina Image 2."""
    return basics(batch, 1 - noise, randn, (4, 8, 8), (8, 24), top=1) | {
        "encoder_attention_mask": ragged_mask(batch, 8),
    }


@tiny_model("LuminaNextDiT2DModel", LUMINA, cross_attention_dim=24)
def lumina_next(batch: int, noise: float, randn: Randn) -> Kwargs:
    """Lumina Next."""
    from diffusers.models.embeddings import get_2d_rotary_pos_embed_lumina

    return basics(batch, 1 - noise, randn, (4, 8, 8), (8, 24), top=1) | {
        "encoder_mask": ragged_mask(batch, 8),
        "image_rotary_emb": get_2d_rotary_pos_embed_lumina(16, 8, 8),
        "cross_attention_kwargs": {},
    }
