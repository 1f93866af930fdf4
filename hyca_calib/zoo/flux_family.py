"""Tiny models of FLUX and of the image transformers that descend from it or resemble it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hyca_calib.zoo.base import Randn, tiny_model

TEXT = 8  # tokens of the prompt
SIDE = 4  # tokens per side of the image


def text_ids(axes: int, *counted: int) -> Tensor:
    """Positions of the prompt's tokens: their number on the axes that count them, 0 on the others."""
    ids = torch.zeros(TEXT, axes)
    for axis in counted:
        ids[:, axis] = torch.arange(TEXT)
    return ids


def image_ids(axes: int = 3, plane: int = 0) -> Tensor:
    """Positions of the image's tokens: row and column on the second and third axis."""
    ids = torch.zeros(SIDE * SIDE, axes)
    place = torch.arange(SIDE * SIDE)
    ids[:, 0], ids[:, 1], ids[:, 2] = plane, place // SIDE, place % SIDE
    return ids


def packed(batch: int, randn: Randn) -> dict[str, Any]:
    """Latents as a sequence of tokens with 16 channels, and a prompt."""
    return {
        "hidden_states": randn(batch, SIDE * SIDE, 16),
        "encoder_hidden_states": randn(batch, TEXT, 32),
        "return_dict": False,
    }


def spatial(batch: int, randn: Randn, channels: int = 4, patch: int = 2) -> dict[str, Any]:
    """Latents as an image, which the model cuts into patches itself, and a prompt."""
    return {
        "hidden_states": randn(batch, channels, SIDE * patch, SIDE * patch),
        "encoder_hidden_states": randn(batch, TEXT, 32),
        "return_dict": False,
    }


def pixels(batch: int) -> Tensor:
    """Height and width of the image, as the models want it that are told."""
    return torch.full((batch, 2), 64.0)


@tiny_model(
    "FluxTransformer2DModel",
    in_channels=16,
    num_layers=2,
    num_single_layers=2,
    attention_head_dim=16,
    num_attention_heads=2,
    joint_attention_dim=32,
    pooled_projection_dim=32,
    guidance_embeds=False,
    axes_dims_rope=(4, 6, 6),
)
def flux(batch: int, noise: float, randn: Randn) -> dict[str, Any]:
    """FLUX.1: time is the share of noise."""
    return {
        **packed(batch, randn),
        "pooled_projections": randn(batch, 32),
        "img_ids": image_ids(),
        "txt_ids": text_ids(3),
        "timestep": torch.full((batch,), noise),
    }


@tiny_model(
    "Flux2Transformer2DModel",
    in_channels=16,
    num_layers=2,
    num_single_layers=2,
    attention_head_dim=16,
    num_attention_heads=2,
    joint_attention_dim=32,
    timestep_guidance_channels=32,
    axes_dims_rope=(4, 4, 4, 4),
)
def flux2(batch: int, noise: float, randn: Randn) -> dict[str, Any]:
    """FLUX.2: time is the share of noise; the guidance scale is an input."""
    return {
        **packed(batch, randn),
        "img_ids": image_ids(4).expand(batch, -1, -1),
        "txt_ids": text_ids(4, 3).expand(batch, -1, -1),
        "timestep": torch.full((batch,), noise),
        "guidance": torch.full((batch,), 4.0),
    }


@tiny_model(
    "Flux3Transformer2DModel",
    in_channels=16,
    cond_in_channels=16,
    num_layers=2,
    num_single_layers=2,
    attention_head_dim=16,
    num_attention_heads=2,
    joint_attention_dim=32,
    timestep_channels=32,
    axes_dims_rope=(4, 4, 4, 4),
)
def flux3(batch: int, noise: float, randn: Randn) -> dict[str, Any]:
    """FLUX.3 without reference images (their share of ``mode_blocks`` stays idle): time is the share of noise."""
    return {
        **packed(batch, randn),
        "img_ids": image_ids(4),
        "txt_ids": text_ids(4, 3),
        "timestep": torch.full((batch,), noise),
    }


@tiny_model(
    "ChromaTransformer2DModel",
    in_channels=16,
    num_layers=2,
    num_single_layers=2,
    attention_head_dim=16,
    num_attention_heads=2,
    joint_attention_dim=32,
    axes_dims_rope=(4, 6, 6),
    approximator_num_channels=16,
    approximator_hidden_dim=32,
    approximator_layers=2,
)
def chroma(batch: int, noise: float, randn: Randn) -> dict[str, Any]:
    """Chroma: time is the share of noise; a small network derives all modulations from it."""
    return {
        **packed(batch, randn),
        "img_ids": image_ids(),
        "txt_ids": text_ids(3),
        "attention_mask": torch.ones(batch, TEXT + SIDE * SIDE),
        "timestep": torch.full((batch,), noise),
    }


@tiny_model(
    "BriaTransformer2DModel",
    in_channels=16,
    num_layers=2,
    num_single_layers=2,
    attention_head_dim=16,
    num_attention_heads=2,
    joint_attention_dim=32,
    axes_dims_rope=[4, 6, 6],
)
def bria(batch: int, noise: float, randn: Randn) -> dict[str, Any]:
    """Bria 3.2: time is in thousandths."""
    return {
        **packed(batch, randn),
        "img_ids": image_ids(),
        "txt_ids": text_ids(3),
        "timestep": torch.full((batch,), 1000 * noise),
    }


@tiny_model(
    "BriaFiboTransformer2DModel",
    in_channels=16,
    num_layers=2,
    num_single_layers=2,
    attention_head_dim=16,
    num_attention_heads=2,
    joint_attention_dim=32,
    axes_dims_rope=[4, 6, 6],
    text_encoder_dim=24,
)
def bria_fibo(batch: int, noise: float, randn: Randn) -> dict[str, Any]:
    """Bria FIBO: time is in thousandths; every block gets a layer of the text encoder."""
    return {
        **packed(batch, randn),
        "text_encoder_layers": [randn(batch, TEXT, 24) for _ in range(2 + 2)],
        "img_ids": image_ids(),
        "txt_ids": text_ids(3),
        "joint_attention_kwargs": {},
        "timestep": torch.full((batch,), 1000 * noise),
    }


@tiny_model(
    "BriaFibo2Transformer2DModel",
    in_channels=4,
    patch_size=2,
    dim=32,
    n_layers=2,
    n_refiner_layers=2,
    n_heads=2,
    cap_feat_dim=32,
    injection_layer_ids=(1,),
    perceiver_num_layers=2,
    min_num_gist_tokens=8,
    max_num_gist_tokens=16,
    gist_step=8,
    gist_min_text_len=8,
    gist_max_text_len=32,
    axes_dims=(4, 6, 6),
    axes_lens=(32, 16, 16),
)
def bria_fibo2(batch: int, noise: float, randn: Randn) -> dict[str, Any]:
    """Bria FIBO 2: time is the share of noise; the first bundle of text goes to the resampler, the rest to blocks."""
    return {
        **spatial(batch, randn),
        "encoder_hidden_states": randn(batch, 2, TEXT, 32),
        "timestep": torch.full((batch,), noise),
    }


@tiny_model(
    "OvisImageTransformer2DModel",
    in_channels=16,
    out_channels=16,
    num_layers=2,
    num_single_layers=2,
    attention_head_dim=16,
    num_attention_heads=2,
    joint_attention_dim=32,
    axes_dims_rope=(4, 6, 6),
)
def ovis_image(batch: int, noise: float, randn: Randn) -> dict[str, Any]:
    """Ovis-Image: time is the share of noise."""
    return {
        **packed(batch, randn),
        "img_ids": image_ids(),
        "txt_ids": text_ids(3, 1, 2),
        "timestep": torch.full((batch,), noise),
    }


@tiny_model(
    "LongCatImageTransformer2DModel",
    in_channels=16,
    num_layers=2,
    num_single_layers=2,
    attention_head_dim=16,
    num_attention_heads=2,
    joint_attention_dim=32,
    pooled_projection_dim=32,
    axes_dims_rope=[4, 6, 6],
)
def longcat_image(batch: int, noise: float, randn: Randn) -> dict[str, Any]:
    """LongCat-Image: time is the share of noise."""
    return {
        **packed(batch, randn),
        "img_ids": image_ids(plane=1),
        "txt_ids": text_ids(3, 1, 2),
        "timestep": torch.full((batch,), noise),
    }


@tiny_model(
    "QwenImageTransformer2DModel",
    patch_size=2,
    in_channels=16,
    out_channels=4,
    num_layers=2,
    attention_head_dim=16,
    num_attention_heads=2,
    joint_attention_dim=32,
    axes_dims_rope=(4, 6, 6),
)
def qwen_image(batch: int, noise: float, randn: Randn) -> dict[str, Any]:
    """Qwen-Image: time is the share of noise."""
    return {
        **packed(batch, randn),
        "encoder_hidden_states_mask": torch.ones(batch, TEXT, dtype=torch.bool),
        "img_shapes": [[(1, SIDE, SIDE)]] * batch,
        "timestep": torch.full((batch,), noise),
    }


@tiny_model(
    "QwenImage21Transformer2DModel",
    in_channels=16,
    out_channels=16,
    num_layers=2,
    attention_head_dim=16,
    num_attention_heads=2,
    context_in_dim=32,
    axes_dims_rope=(4, 6, 6),
)
def qwen_image21(batch: int, noise: float, randn: Randn) -> dict[str, Any]:
    """Qwen-Image 2.1: time is the share of noise; the output covers the prompt's tokens too."""
    # One slot of the text encoder's sequence stands for four tokens of the image.
    slots = torch.arange(TEXT + SIDE * SIDE // 4) >= TEXT
    return {
        **packed(batch, randn),
        "encoder_hidden_states_mask": torch.ones(batch, TEXT, dtype=torch.bool),
        "img_shapes": [[(1, SIDE, SIDE)]] * batch,
        "img_mask": slots.expand(batch, -1),
        "timestep": torch.full((batch,), noise),
    }


@tiny_model(
    "NucleusMoEImageTransformer2DModel",
    patch_size=2,
    in_channels=16,
    out_channels=4,
    num_layers=2,
    attention_head_dim=16,
    num_attention_heads=2,
    num_key_value_heads=1,
    joint_attention_dim=32,
    axes_dims_rope=(4, 6, 6),
    mlp_ratio=6.0,
    dense_moe_strategy="leave_first_block_dense",
    num_experts=4,
    moe_intermediate_dim=32,
    capacity_factors=2.0,
)
def nucleus_moe_image(batch: int, noise: float, randn: Randn) -> dict[str, Any]:
    """Nucleus-Image, one dense block and one with experts: time is the share of noise."""
    return {
        **packed(batch, randn),
        "encoder_hidden_states_mask": torch.ones(batch, TEXT, dtype=torch.bool),
        "img_shapes": [(1, SIDE, SIDE)] * batch,
        "timestep": torch.full((batch,), noise),
    }


@tiny_model(
    "HunyuanImageTransformer2DModel",
    in_channels=4,
    out_channels=4,
    num_attention_heads=2,
    attention_head_dim=16,
    num_layers=2,
    num_single_layers=2,
    num_refiner_layers=2,
    patch_size=(1, 1),
    text_embed_dim=32,
    rope_axes_dim=(8, 8),
)
def hunyuan_image(batch: int, noise: float, randn: Randn) -> dict[str, Any]:
    """HunyuanImage 2.1 without its second text encoder: time is in thousandths."""
    return {
        **spatial(batch, randn, patch=1),
        "encoder_attention_mask": torch.ones(batch, TEXT),
        "timestep": torch.full((batch,), 1000 * noise),
    }


@tiny_model(
    "GlmImageTransformer2DModel",
    in_channels=4,
    out_channels=4,
    num_layers=2,
    attention_head_dim=16,
    num_attention_heads=2,
    text_embed_dim=32,
    time_embed_dim=32,
    condition_dim=16,
    prior_vq_quantizer_codebook_size=64,
)
def glm_image(batch: int, noise: float, randn: Randn) -> dict[str, Any]:
    """GLM-Image: time is in thousandths, less one; tokens of a language model come with the latents."""
    tokens = torch.arange(SIDE * SIDE) * 3
    return {
        **spatial(batch, randn),
        "prior_token_id": tokens.expand(batch, -1),
        "prior_token_drop": torch.zeros(batch, SIDE * SIDE, dtype=torch.bool),
        "target_size": pixels(batch),
        "crop_coords": torch.zeros(batch, 2),
        "timestep": torch.full((batch,), 999 * noise),
    }


@tiny_model(
    "CogView4Transformer2DModel",
    in_channels=4,
    out_channels=4,
    num_layers=2,
    attention_head_dim=16,
    num_attention_heads=2,
    text_embed_dim=32,
    time_embed_dim=32,
    condition_dim=16,
    sample_size=16,
    rope_axes_dim=(16, 16),
)
def cogview4(batch: int, noise: float, randn: Randn) -> dict[str, Any]:
    """CogView4: time is in thousandths."""
    return {
        **spatial(batch, randn),
        "original_size": pixels(batch),
        "target_size": pixels(batch),
        "crop_coords": torch.zeros(batch, 2),
        "timestep": torch.full((batch,), 1000 * noise),
    }


@tiny_model(
    "CogView3PlusTransformer2DModel",
    in_channels=4,
    out_channels=4,
    num_layers=2,
    attention_head_dim=16,
    num_attention_heads=2,
    text_embed_dim=32,
    time_embed_dim=32,
    condition_dim=16,
    pos_embed_max_size=8,
    sample_size=8,
)
def cogview3_plus(batch: int, noise: float, randn: Randn) -> dict[str, Any]:
    """CogView3-Plus: time is the number of a diffusion step, 0 to 999."""
    return {
        **spatial(batch, randn),
        "original_size": pixels(batch),
        "target_size": pixels(batch),
        "crop_coords": torch.zeros(batch, 2),
        "timestep": torch.full((batch,), round(999 * noise)),
    }


@tiny_model(
    "AuraFlowTransformer2DModel",
    sample_size=8,
    in_channels=4,
    out_channels=4,
    num_mmdit_layers=2,
    num_single_dit_layers=2,
    attention_head_dim=16,
    num_attention_heads=2,
    joint_attention_dim=32,
    caption_projection_dim=32,
    pos_embed_max_size=64,
)
def aura_flow(batch: int, noise: float, randn: Randn) -> dict[str, Any]:
    """AuraFlow: time is the share of noise."""
    return {**spatial(batch, randn), "timestep": torch.full((batch,), noise)}
