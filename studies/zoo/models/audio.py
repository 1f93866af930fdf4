"""Networks for sound; none has a final norm but LongCat's."""

import torch

from studies.zoo.base import Kwargs, Randn, tiny_model
from studies.zoo.models.shared import TWO_BLOCKS, basics, rotary_halves


@tiny_model(
    "StableAudioDiTModel", TWO_BLOCKS,
    sample_size=32, in_channels=8, out_channels=8, num_key_value_attention_heads=1, cross_attention_dim=16,
    time_proj_dim=32, global_states_input_dim=32, cross_attention_input_dim=32,
)  # fmt: skip
def stable_audio(batch: int, noise: float, randn: Randn) -> Kwargs:
    """A token of the time precedes the sound."""
    return basics(batch, noise, randn, (8, 32), (6, 32)) | {
        "global_hidden_states": randn(batch, 1, 32),
        "rotary_embedding": rotary_halves(33, 8),
        "timestep": torch.full((1,), noise),
    }


@tiny_model(
    "StableAudio3DiTModel",
    io_channels=8, embed_dim=32, depth=2, num_heads=2, cond_token_dim=32, global_cond_dim=32, local_add_cond_dim=9,
    timestep_features_dim=32, num_memory_tokens=4,
)  # fmt: skip
def stable_audio3(batch: int, noise: float, randn: Randn) -> Kwargs:
    """Memory tokens precede the sound."""
    return basics(batch, noise, randn, (8, 32), (6, 32), top=1) | {
        "global_hidden_states": randn(batch, 32),
        "encoder_attention_mask": torch.ones(batch, 6, dtype=torch.bool),
    }


@tiny_model(
    "LongCatAudioDiTTransformer", dit_dim=32, dit_depth=2, dit_heads=2, dit_text_dim=32, latent_dim=8, ff_mult=2.0
)
def longcat_audio(batch: int, noise: float, randn: Randn) -> Kwargs:
    """The input is added again after the blocks."""
    return basics(batch, noise, randn, (32, 8), (6, 32), top=1) | {
        "encoder_attention_mask": torch.ones(batch, 6, dtype=torch.bool),
        "attention_mask": torch.ones(batch, 32, dtype=torch.bool),
        "latent_cond": torch.zeros(batch, 32, 8),
    }


@tiny_model(
    "MiniMaxMusic3Transformer1DModel", TWO_BLOCKS,
    in_channels=8, condition_dim=32, ff_inner_dim=64, rotary_dim=8, fourier_embedding_dim=32,
)  # fmt: skip
def minimax_music3(batch: int, noise: float, randn: Randn) -> Kwargs:
    """Time runs from 0 to 1, its token precedes the sound."""
    return basics(batch, 1 - noise, randn, (8, 32), (32, 32), top=1)
