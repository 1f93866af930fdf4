"""Tiny models of text to image transformers that have a family of their own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hyca_calib.zoo.base import Randn, tiny_model


def text_mask(batch: int, length: int) -> Tensor:
    """Of prompts padded on the right: one token of padding in the first, two in the second, ..."""
    return (torch.arange(length) < length - 1 - torch.arange(batch)[:, None]).long()


def grid_ids(height: int, width: int) -> Tensor:
    """Positions of image tokens, row by row: zero, row, column."""
    return torch.cartesian_prod(torch.zeros(1, dtype=torch.long), torch.arange(height), torch.arange(width))


@tiny_model(
    "DiTTransformer2DModel",
    num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=8, num_layers=2, sample_size=8,
)  # fmt: skip
def dit(batch: int, noise: float, randn: Randn) -> dict[str, Any]:
    """Classes as prompts; whole timesteps from 999 down."""
    return {
        "hidden_states": randn(batch, 4, 8, 8),
        "timestep": torch.full((batch,), round(999 * noise)),
        "class_labels": 1 + torch.arange(batch),
        "return_dict": False,
    }


@tiny_model(
    "PixArtTransformer2DModel",
    num_attention_heads=3, attention_head_dim=16, in_channels=4, out_channels=8, num_layers=2, sample_size=8,
    cross_attention_dim=48, caption_channels=32, use_additional_conditions=True,
)  # fmt: skip
def pixart(batch: int, noise: float, randn: Randn) -> dict[str, Any]:
    """The first PixArt, conditioned on the size of the image; whole timesteps from 999 down."""
    return {
        "hidden_states": randn(batch, 4, 8, 8),
        "encoder_hidden_states": randn(batch, 8, 32),
        "encoder_attention_mask": text_mask(batch, 8),
        "timestep": torch.full((batch,), round(999 * noise)),
        "added_cond_kwargs": {
            "resolution": torch.full((batch, 2), 64.0),
            "aspect_ratio": torch.ones(batch, 1),
        },
        "return_dict": False,
    }


@tiny_model(
    "SD3Transformer2DModel",
    sample_size=8, in_channels=4, out_channels=4, num_layers=2, attention_head_dim=16, num_attention_heads=2,
    joint_attention_dim=32, caption_projection_dim=32, pooled_projection_dim=32, pos_embed_max_size=8,
    dual_attention_layers=(0,), qk_norm="rms_norm",
)  # fmt: skip
def sd3(batch: int, noise: float, randn: Randn) -> dict[str, Any]:
    """As SD 3.5 medium, with a second attention in the first block; timesteps from 1000 down."""
    return {
        "hidden_states": randn(batch, 4, 8, 8),
        "encoder_hidden_states": randn(batch, 8, 32),
        "pooled_projections": randn(batch, 32),
        "timestep": torch.full((batch,), 1000 * noise),
        "return_dict": False,
    }


@tiny_model(
    "SanaTransformer2DModel",
    in_channels=8, out_channels=8, num_attention_heads=2, attention_head_dim=16, num_layers=2,
    num_cross_attention_heads=2, cross_attention_head_dim=16, cross_attention_dim=32, caption_channels=24,
    sample_size=4,
)  # fmt: skip
def sana(batch: int, noise: float, randn: Randn) -> dict[str, Any]:
    """Timesteps from 1000 down."""
    return {
        "hidden_states": randn(batch, 8, 4, 4),
        "encoder_hidden_states": randn(batch, 8, 24),
        "encoder_attention_mask": text_mask(batch, 8),
        "timestep": torch.full((batch,), 1000 * noise),
        "return_dict": False,
    }


@tiny_model(
    "ZImageTransformer2DModel",
    in_channels=4, dim=32, n_layers=2, n_refiner_layers=2, n_heads=2, n_kv_heads=2, cap_feat_dim=24,
    axes_dims=[4, 6, 6], axes_lens=[128, 16, 16],
)  # fmt: skip
def z_image(batch: int, noise: float, randn: Randn) -> dict[str, Any]:
    """Lists of samples and of prompts; time from 0 up."""
    return {
        "x": list(randn(batch, 4, 1, 8, 8)),
        "t": torch.full((batch,), 1 - noise),
        "cap_feats": [prompt[: 8 - i] for i, prompt in enumerate(randn(batch, 8, 24))],
        "return_dict": False,
    }


@tiny_model(
    "Lumina2Transformer2DModel",
    sample_size=8, in_channels=4, hidden_size=32, num_layers=2, num_refiner_layers=2, num_attention_heads=2,
    num_kv_heads=1, multiple_of=32, axes_dim_rope=(4, 6, 6), axes_lens=(32, 16, 16), cap_feat_dim=24,
)  # fmt: skip
def lumina2(batch: int, noise: float, randn: Randn) -> dict[str, Any]:
    """Time from 0 up."""
    return {
        "hidden_states": randn(batch, 4, 8, 8),
        "timestep": torch.full((batch,), 1 - noise),
        "encoder_hidden_states": randn(batch, 8, 24),
        "encoder_attention_mask": text_mask(batch, 8),
        "return_dict": False,
    }


@tiny_model(
    "LuminaNextDiT2DModel",
    sample_size=8, in_channels=4, hidden_size=32, num_layers=2, num_attention_heads=2, num_kv_heads=1,
    multiple_of=32, cross_attention_dim=24,
)  # fmt: skip
def lumina_next(batch: int, noise: float, randn: Randn) -> dict[str, Any]:
    """Time from 0 up."""
    from diffusers.models.embeddings import get_2d_rotary_pos_embed_lumina

    return {
        "hidden_states": randn(batch, 4, 8, 8),
        "timestep": torch.full((batch,), 1 - noise),
        "encoder_hidden_states": randn(batch, 8, 24),
        "encoder_mask": text_mask(batch, 8),
        "image_rotary_emb": get_2d_rotary_pos_embed_lumina(16, 8, 8),
        "cross_attention_kwargs": {},
        "return_dict": False,
    }


@tiny_model(
    "HiDreamImageTransformer2DModel",
    patch_size=2, in_channels=4, num_layers=2, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
    caption_channels=[24, 32], text_emb_dim=24, num_routed_experts=2, num_activated_experts=1,
    axes_dims_rope=(8, 4, 4), max_resolution=(16, 16), llama_layers=[0, 1, 2, 2],
)  # fmt: skip
def hidream(batch: int, noise: float, randn: Randn) -> dict[str, Any]:
    """A square image, three layers of Llama for four blocks; timesteps from 1000 down."""
    return {
        "hidden_states": randn(batch, 4, 8, 8),
        "timesteps": torch.full((batch,), 1000 * noise),
        "encoder_hidden_states_t5": randn(batch, 8, 24),
        "encoder_hidden_states_llama3": randn(3, batch, 8, 32),
        "pooled_embeds": randn(batch, 24),
        "return_dict": False,
    }


@tiny_model(
    "HunyuanDiT2DModel",
    num_attention_heads=2, attention_head_dim=16, in_channels=4, patch_size=2, sample_size=8, hidden_size=32,
    num_layers=4,  # the last takes a skip connection from the first
    cross_attention_dim=24, cross_attention_dim_t5=32, pooled_projection_dim=32, text_len=6, text_len_t5=8,
)  # fmt: skip
def hunyuan_dit(batch: int, noise: float, randn: Randn) -> dict[str, Any]:
    """Timesteps from 999 down."""
    from diffusers.models.embeddings import get_2d_rotary_pos_embed

    return {
        "hidden_states": randn(batch, 4, 8, 8),
        "timestep": torch.full((batch,), 999 * noise),
        "encoder_hidden_states": randn(batch, 6, 24),
        "text_embedding_mask": text_mask(batch, 6),
        "encoder_hidden_states_t5": randn(batch, 8, 32),
        "text_embedding_mask_t5": text_mask(batch, 8),
        "image_meta_size": torch.tensor([64.0, 64.0, 64.0, 64.0, 0.0, 0.0]).repeat(batch, 1),
        "style": torch.zeros(batch, dtype=torch.long),
        "image_rotary_emb": get_2d_rotary_pos_embed(16, ((0, 0), (4, 4)), (4, 4), output_type="pt"),
        "return_dict": False,
    }


@tiny_model(
    "OmniGenTransformer2DModel",
    in_channels=4, hidden_size=32, num_attention_heads=2, num_key_value_heads=2, intermediate_size=64, num_layers=2,
    pad_token_id=0, vocab_size=32, max_position_embeddings=128, original_max_position_embeddings=128,
    rope_scaling={"short_factor": [1.0] * 8, "long_factor": [2.0] * 8}, pos_embed_max_size=8,
)  # fmt: skip
def omnigen(batch: int, noise: float, randn: Randn) -> dict[str, Any]:
    """One image of four tokens in a prompt of eight, the time, and the 16 tokens of the output."""
    prompt, image, output = 8, slice(2, 6), 16
    mask = torch.ones(prompt + 1 + output, prompt + 1 + output).tril()
    mask[image, image] = 1
    mask[-output:] = 1
    return {
        "hidden_states": randn(batch, 4, 8, 8),
        "timestep": torch.full((batch,), 1 - noise),
        "input_ids": torch.arange(1, 1 + prompt) + torch.arange(batch)[:, None],
        "input_img_latents": list(randn(batch, 1, 4, 4, 4)),
        "input_image_sizes": {i: [[image.start, image.stop]] for i in range(batch)},
        "attention_mask": mask.repeat(batch, 1, 1),
        "position_ids": torch.arange(len(mask)).repeat(batch, 1),
        "return_dict": False,
    }


@tiny_model(
    "ErnieImageTransformer2DModel",
    hidden_size=32, num_attention_heads=2, num_layers=2, ffn_hidden_size=64, in_channels=8, out_channels=8,
    text_in_dim=24, rope_axes_dim=(4, 6, 6),
)  # fmt: skip
def ernie_image(batch: int, noise: float, randn: Randn) -> dict[str, Any]:
    """Timesteps from 1000 down; inside, the sequence comes before the batch."""
    return {
        "hidden_states": randn(batch, 8, 4, 4),
        "timestep": torch.full((batch,), 1000 * noise),
        "text_bth": randn(batch, 8, 24),
        "text_lens": 7 - torch.arange(batch),
        "return_dict": False,
    }


@tiny_model(
    "Krea2Transformer2DModel",
    in_channels=16, num_layers=2, attention_head_dim=16, num_attention_heads=2, num_key_value_heads=1,
    intermediate_size=64, timestep_embed_dim=32, text_hidden_dim=32, num_text_layers=3, text_num_attention_heads=2,
    text_num_key_value_heads=2, text_intermediate_size=64, axes_dims_rope=(4, 6, 6),
)  # fmt: skip
def krea2(batch: int, noise: float, randn: Randn) -> dict[str, Any]:
    """Prompts of three layers of a text encoder; the share of noise as time."""
    return {
        "hidden_states": randn(batch, 16, 16),
        "encoder_hidden_states": randn(batch, 8, 3, 32),
        "encoder_attention_mask": text_mask(batch, 8).bool(),
        "timestep": torch.full((batch,), noise),
        "position_ids": torch.cat([torch.zeros(8, 3), grid_ids(4, 4)]),
        "return_dict": False,
    }


@tiny_model(
    "PRXTransformer2DModel",
    in_channels=4, context_in_dim=24, hidden_size=32, mlp_ratio=2.0, num_heads=2, depth=2, axes_dim=[8, 8],
)  # fmt: skip
def prx(batch: int, noise: float, randn: Randn) -> dict[str, Any]:
    """The share of noise as time."""
    return {
        "hidden_states": randn(batch, 4, 8, 8),
        "timestep": torch.full((batch,), noise),
        "encoder_hidden_states": randn(batch, 8, 24),
        "attention_mask": text_mask(batch, 8).bool(),
        "return_dict": False,
    }


@tiny_model(
    "Ideogram4Transformer2DModel",
    in_channels=8, num_layers=2, attention_head_dim=16, num_attention_heads=2, intermediate_size=64, adaln_dim=16,
    llm_features_dim=48, mrope_section=(4, 2, 2),
)  # fmt: skip
def ideogram4(batch: int, noise: float, randn: Randn) -> dict[str, Any]:
    """Prompts of seven tokens and fewer, padded on the left, then the 16 tokens of the image."""
    prompt, image = 8, 16
    is_text = text_mask(batch, prompt).flip(1)
    places = torch.cat([(is_text.cumsum(1) - 1).clamp(min=0), torch.zeros(batch, image, dtype=torch.long)], dim=1)
    places = places[:, :, None].repeat(1, 1, 3)
    places[:, prompt:] = grid_ids(4, 4) + 65536  # far from the text
    return {
        "hidden_states": torch.cat([torch.zeros(batch, prompt, 8), randn(batch, image, 8)], dim=1),
        "timestep": torch.full((batch,), 1 - noise),
        "encoder_hidden_states": torch.cat([randn(batch, prompt, 48), torch.zeros(batch, image, 48)], dim=1),
        "position_ids": places,
        "segment_ids": torch.cat([2 * is_text - 1, torch.ones(batch, image, dtype=torch.long)], dim=1),
        "indicator": torch.cat([3 * is_text, torch.full((batch, image), 2)], dim=1),
        "return_dict": False,
    }


@tiny_model(
    "JoyImageEditTransformer3DModel",
    in_channels=4, hidden_size=32, num_attention_heads=2, text_dim=24, mlp_width_ratio=2.0, num_layers=2,
    rope_dim_list=[4, 6, 6],
)  # fmt: skip
def joy_image_edit(batch: int, noise: float, randn: Randn) -> dict[str, Any]:
    """Two images: a reference, and the one to be made."""
    return {
        "hidden_states": randn(batch, 2, 4, 1, 8, 8),
        "timestep": torch.full((batch,), 1000 * noise),
        "encoder_hidden_states": randn(batch, 8, 24),
        "return_dict": False,
    }


@tiny_model(
    "JoyImageEditPlusTransformer3DModel",
    in_channels=4, hidden_size=32, num_attention_heads=2, text_dim=24, mlp_width_ratio=2.0, num_layers=2,
    rope_dim_list=[4, 6, 6],
)  # fmt: skip
def joy_image_edit_plus(batch: int, noise: float, randn: Randn) -> dict[str, Any]:
    """The image to be made, a reference of another size, and in samples but the first one row of padding."""
    return {
        "hidden_states": randn(batch, 24, 4, 1, 2, 2),
        "timestep": torch.full((batch,), 1000 * noise),
        "encoder_hidden_states": randn(batch, 8, 24),
        "encoder_hidden_states_mask": text_mask(batch, 8),
        "shape_list": [[(1, 4, 4), (1, 4 if i == 0 else 3, 2)] for i in range(batch)],
        "return_dict": False,
    }
