"""Tiny models of the transformers that make video."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hyca_calib.zoo.base import Randn, tiny_model


def flow_time(batch: int, noise: float) -> Tensor:
    """Timestep of flow matching schedulers, 1000 to 0."""
    return torch.full((batch,), 1000 * noise)


def ddpm_time(batch: int, noise: float) -> Tensor:
    """Timestep of discrete schedulers, 999 to 0."""
    return torch.full((batch,), round(999 * noise))


def prompt_mask(batch: int, length: int, padding: int = 2) -> Tensor:
    """One for words, zero for padding at the end."""
    mask = torch.ones(batch, length, dtype=torch.long)
    mask[:, length - padding :] = 0
    return mask


def rotary(positions: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Cosine and sine of some frequencies, each for two neighbouring channels: (positions, width)."""
    frequencies = 0.1 ** torch.linspace(0, 2, width // 2)
    angles = torch.outer(positions.float(), frequencies).repeat_interleave(2, dim=-1)
    return angles.cos(), angles.sin()


@tiny_model(
    "WanTransformer3DModel",
    num_attention_heads=2,
    attention_head_dim=16,
    in_channels=4,
    out_channels=4,
    text_dim=32,
    freq_dim=32,
    ffn_dim=64,
    num_layers=2,
    rope_max_seq_len=32,
)
def wan(batch: int, noise: float, randn: Randn) -> dict[str, Any]:
    """Wan 2.1 and 2.2, text to video."""
    return {
        "hidden_states": randn(batch, 4, 3, 8, 8),
        "timestep": flow_time(batch, noise),
        "encoder_hidden_states": randn(batch, 7, 32),
        "return_dict": False,
    }


@tiny_model(
    "HunyuanVideoTransformer3DModel",
    in_channels=4,
    out_channels=4,
    num_attention_heads=2,
    attention_head_dim=16,
    num_layers=2,
    num_single_layers=2,
    num_refiner_layers=2,
    text_embed_dim=32,
    pooled_projection_dim=32,
    rope_axes_dim=(4, 6, 6),
)
def hunyuan_video(batch: int, noise: float, randn: Randn) -> dict[str, Any]:
    """HunyuanVideo, text to video, with a refiner of the prompt inside `context_embedder`."""
    return {
        "hidden_states": randn(batch, 4, 3, 8, 8),
        "timestep": flow_time(batch, noise),
        "encoder_hidden_states": randn(batch, 7, 32),
        "encoder_attention_mask": prompt_mask(batch, 7),
        "pooled_projections": randn(batch, 32),
        "guidance": torch.full((batch,), 6000.0),
        "return_dict": False,
    }


@tiny_model(
    "LTXVideoTransformer3DModel",
    in_channels=8,
    out_channels=8,
    num_attention_heads=2,
    attention_head_dim=24,
    cross_attention_dim=48,
    num_layers=2,
    caption_channels=32,
)
def ltx(batch: int, noise: float, randn: Randn) -> dict[str, Any]:
    """LTX-Video, whose latents come packed as tokens."""
    return {
        "hidden_states": randn(batch, 3 * 4 * 4, 8),
        "encoder_hidden_states": randn(batch, 7, 32),
        "timestep": flow_time(batch, noise),
        "encoder_attention_mask": prompt_mask(batch, 7),
        "num_frames": 3,
        "height": 4,
        "width": 4,
        "rope_interpolation_scale": (8 / 25, 32, 32),
        "return_dict": False,
    }


@tiny_model(
    "CogVideoXTransformer3DModel",
    num_attention_heads=2,
    attention_head_dim=16,
    in_channels=4,
    out_channels=4,
    time_embed_dim=32,
    text_embed_dim=32,
    num_layers=2,
    sample_width=8,
    sample_height=8,
    sample_frames=9,
    max_text_seq_length=7,
    use_rotary_positional_embeddings=True,
)
def cogvideox(batch: int, noise: float, randn: Randn) -> dict[str, Any]:
    """CogVideoX 5B, whose latents have frames before channels."""
    return {
        "hidden_states": randn(batch, 3, 4, 8, 8),
        "encoder_hidden_states": randn(batch, 7, 32),
        "timestep": ddpm_time(batch, noise),
        "image_rotary_emb": rotary(torch.arange(3 * 4 * 4), 16),
        "return_dict": False,
    }


@tiny_model(
    "WanVACETransformer3DModel",
    num_attention_heads=2,
    attention_head_dim=16,
    in_channels=4,
    out_channels=4,
    text_dim=32,
    freq_dim=32,
    ffn_dim=64,
    num_layers=3,
    rope_max_seq_len=32,
    vace_layers=[0, 2],
    vace_in_channels=12,
)
def wan_vace(batch: int, noise: float, randn: Randn) -> dict[str, Any]:
    """Wan VACE: a second list of blocks makes hints out of a control video."""
    return {
        "hidden_states": randn(batch, 4, 3, 8, 8),
        "timestep": flow_time(batch, noise),
        "encoder_hidden_states": randn(batch, 7, 32),
        "control_hidden_states": randn(batch, 12, 3, 8, 8),
        "control_hidden_states_scale": torch.ones(2),
        "return_dict": False,
    }


@tiny_model(
    "WanAnimateTransformer3DModel",
    num_attention_heads=2,
    attention_head_dim=16,
    in_channels=12,
    latent_channels=4,
    out_channels=4,
    text_dim=32,
    freq_dim=32,
    ffn_dim=64,
    num_layers=2,
    image_dim=32,
    added_kv_proj_dim=32,
    rope_max_seq_len=32,
    motion_encoder_channel_sizes={"4": 8, "8": 8, "16": 8},
    motion_encoder_size=16,
    motion_style_dim=16,
    motion_dim=4,
    motion_encoder_dim=16,
    face_encoder_hidden_dim=16,
    face_encoder_num_heads=2,
    inject_face_latents_blocks=2,
)
def wan_animate(batch: int, noise: float, randn: Randn) -> dict[str, Any]:
    """Wan 2.2 Animate: a pose is added to the latents, a face attended to after some blocks."""
    return {
        "hidden_states": randn(batch, 12, 3, 8, 8),
        "timestep": flow_time(batch, noise),
        "encoder_hidden_states": randn(batch, 7, 32),
        "encoder_hidden_states_image": randn(batch, 5, 32),
        "pose_hidden_states": randn(batch, 4, 2, 8, 8),
        "face_pixel_values": randn(batch, 3, 5, 16, 16),
        "return_dict": False,
    }


@tiny_model(
    "WanAnimate2Transformer3DModel",
    text_len=8,
    in_dim=12,
    dim=32,
    ffn_dim=64,
    freq_dim=32,
    text_dim=32,
    out_dim=4,
    num_heads=2,
    num_layers=2,
    use_img_emb=False,
)
def wan_animate_2(batch: int, noise: float, randn: Randn) -> dict[str, Any]:
    """Wan Animate 2, a denoising step after the pass that fills the cache with the reference video."""
    from diffusers.models.transformers.transformer_wan_animate_2 import WanAnimate2KVCache

    reference = WanAnimate2KVCache(2)
    for index in range(2):
        reference.get(index).store(randn(batch, 2 * 4 * 4, 2, 16), randn(batch, 2 * 4 * 4, 2, 16))
    return {
        "hidden_states": list(randn(batch, 4, 3, 8, 8)),
        "timestep": flow_time(batch, noise),
        "encoder_hidden_states": list(randn(batch, 7, 32)),
        "condition_latents": list(randn(batch, 8, 3, 8, 8)),
        "kv_cache": reference,
        "kv_cache_mode": "cached",
        "seq_len": 3 * 4 * 4,
        "reference_grid_sizes": torch.tensor([[2, 4, 4]] * batch),
        "origin_len": 5,
        "origin_area": [64, 64],
        "return_dict": False,
    }


@tiny_model(
    "ChronoEditTransformer3DModel",
    num_attention_heads=2,
    attention_head_dim=24,
    in_channels=12,
    out_channels=4,
    text_dim=32,
    freq_dim=32,
    ffn_dim=64,
    num_layers=2,
    image_dim=32,
    added_kv_proj_dim=48,
    rope_max_seq_len=32,
)
def chrono_edit(batch: int, noise: float, randn: Randn) -> dict[str, Any]:
    """ChronoEdit, editing as image to video."""
    return {
        "hidden_states": randn(batch, 12, 3, 8, 8),
        "timestep": flow_time(batch, noise),
        "encoder_hidden_states": randn(batch, 7, 32),
        "encoder_hidden_states_image": randn(batch, 5, 32),
        "return_dict": False,
    }


@tiny_model(
    "SkyReelsV2Transformer3DModel",
    num_attention_heads=2,
    attention_head_dim=16,
    in_channels=4,
    out_channels=4,
    text_dim=32,
    freq_dim=32,
    ffn_dim=64,
    num_layers=2,
    rope_max_seq_len=32,
)
def skyreels_v2(batch: int, noise: float, randn: Randn) -> dict[str, Any]:
    """SkyReels V2, text to video."""
    return {
        "hidden_states": randn(batch, 4, 3, 8, 8),
        "timestep": flow_time(batch, noise),
        "encoder_hidden_states": randn(batch, 7, 32),
        "return_dict": False,
    }


@tiny_model(
    "HeliosTransformer3DModel",
    num_attention_heads=2,
    attention_head_dim=16,
    in_channels=4,
    out_channels=4,
    text_dim=32,
    freq_dim=32,
    ffn_dim=64,
    num_layers=2,
    rope_dim=(4, 6, 6),
)
def helios(batch: int, noise: float, randn: Randn) -> dict[str, Any]:
    """Helios, a chunk of a long video after three resolutions of its past."""
    frames = torch.arange(4 + 2 + 2 + 3)[None]
    return {
        "hidden_states": randn(batch, 4, 3, 8, 4),
        "timestep": flow_time(batch, noise),
        "encoder_hidden_states": randn(batch, 7, 32),
        "indices_hidden_states": frames[:, 8:],
        "indices_latents_history_short": frames[:, 6:8],
        "indices_latents_history_mid": frames[:, 4:6],
        "indices_latents_history_long": frames[:, :4],
        "latents_history_short": randn(batch, 4, 2, 8, 4),
        "latents_history_mid": randn(batch, 4, 2, 8, 4),
        "latents_history_long": randn(batch, 4, 4, 8, 4),
        "return_dict": False,
    }


@tiny_model(
    "LTX2VideoTransformer3DModel",
    in_channels=8,
    out_channels=8,
    num_attention_heads=2,
    attention_head_dim=24,
    cross_attention_dim=48,
    audio_in_channels=8,
    audio_out_channels=8,
    audio_num_attention_heads=2,
    audio_attention_head_dim=16,
    audio_cross_attention_dim=32,
    num_layers=2,
    caption_channels=32,
)
def ltx2(batch: int, noise: float, randn: Randn) -> dict[str, Any]:
    """LTX-2, which makes video and audio in two streams."""
    mask = prompt_mask(batch, 7)
    return {
        "hidden_states": randn(batch, 3 * 4 * 4, 8),
        "audio_hidden_states": randn(batch, 6, 8),
        "encoder_hidden_states": randn(batch, 7, 32),
        "audio_encoder_hidden_states": randn(batch, 7, 32),
        "timestep": flow_time(batch, noise),
        "sigma": flow_time(batch, noise),
        "encoder_attention_mask": mask,
        "audio_encoder_attention_mask": mask,
        "num_frames": 3,
        "height": 4,
        "width": 4,
        "audio_num_frames": 6,
        "return_dict": False,
    }


@tiny_model(
    "SanaWMLTX2RefinerTransformer3DModel",
    in_channels=8,
    out_channels=8,
    num_attention_heads=2,
    attention_head_dim=24,
    cross_attention_dim=48,
    audio_in_channels=8,
    audio_out_channels=8,
    audio_num_attention_heads=2,
    audio_attention_head_dim=16,
    audio_cross_attention_dim=32,
    num_layers=2,
    caption_channels=32,
)
def sana_wm_refiner(batch: int, noise: float, randn: Randn) -> dict[str, Any]:
    """Second stage of SANA-WM: a chunk whose past is in a cache."""
    from diffusers.models.transformers.transformer_sana_wm_refiner import SanaWMRefinerKVCache

    cos, sin = rotary(torch.arange(2 * 4 * 4), 48)
    past = SanaWMRefinerKVCache(2)
    past.sink_pe = (cos[None, :16], sin[None, :16])
    for index in range(2):
        past.get(index).store_sink(randn(batch, 16, 48), randn(batch, 16, 48))
        past.get(index).store_history(randn(batch, 16, 48), randn(batch, 16, 48))
    return {
        "hidden_states": randn(batch, 2 * 4 * 4, 8),
        "encoder_hidden_states": randn(batch, 7, 32),
        "timestep": flow_time(batch, noise)[:, None].expand(-1, 2 * 4 * 4),
        "video_rotary_emb": (cos[None], sin[None]),
        "encoder_attention_mask": prompt_mask(batch, 7),
        "kv_cache": past,
        "kv_cache_mode": "inject",
        "return_dict": False,
    }


@tiny_model(
    "ConsisIDTransformer3DModel",
    num_attention_heads=3,
    attention_head_dim=16,
    in_channels=8,
    out_channels=4,
    time_embed_dim=32,
    text_embed_dim=32,
    num_layers=2,
    sample_width=8,
    sample_height=8,
    sample_frames=9,
    max_text_seq_length=7,
    use_rotary_positional_embeddings=True,
    is_train_face=True,
    cross_attn_interval=2,
    cross_attn_dim_head=16,
    cross_attn_num_heads=2,
    LFE_id_dim=32,
    LFE_vit_dim=32,
    LFE_depth=2,
    LFE_dim_head=16,
    LFE_num_heads=2,
    LFE_num_id_token=2,
    LFE_num_querie=4,
    LFE_output_dim=32,
    LFE_ff_mult=2,
    LFE_num_scale=2,
)
def consis_id(batch: int, noise: float, randn: Randn) -> dict[str, Any]:
    """ConsisID: CogVideoX with a face attended to after some blocks."""
    return {
        "hidden_states": randn(batch, 3, 8, 8, 8),
        "encoder_hidden_states": randn(batch, 7, 32),
        "timestep": ddpm_time(batch, noise),
        "image_rotary_emb": rotary(torch.arange(3 * 4 * 4), 16),
        "id_cond": randn(batch, 32),
        "id_vit_hidden": [randn(batch, 5, 32), randn(batch, 5, 32)],
        "return_dict": False,
    }


@tiny_model(
    "MochiTransformer3DModel",
    num_attention_heads=2,
    attention_head_dim=16,
    num_layers=2,
    pooled_projection_dim=16,
    in_channels=4,
    text_embed_dim=32,
    time_embed_dim=32,
    max_sequence_length=7,
)
def mochi(batch: int, noise: float, randn: Randn) -> dict[str, Any]:
    """Mochi, whose time runs from 0 to 1000."""
    return {
        "hidden_states": randn(batch, 4, 3, 8, 8),
        "encoder_hidden_states": randn(batch, 7, 32),
        "timestep": flow_time(batch, 1 - noise),
        "encoder_attention_mask": prompt_mask(batch, 7).bool(),
        "return_dict": False,
    }


@tiny_model(
    "HunyuanVideoFramepackTransformer3DModel",
    in_channels=4,
    out_channels=4,
    num_attention_heads=2,
    attention_head_dim=16,
    num_layers=2,
    num_single_layers=2,
    num_refiner_layers=2,
    text_embed_dim=32,
    pooled_projection_dim=32,
    rope_axes_dim=(4, 6, 6),
    has_image_proj=True,
    image_proj_dim=32,
    has_clean_x_embedder=True,
)
def framepack(batch: int, noise: float, randn: Randn) -> dict[str, Any]:
    """HunyuanVideo FramePack, a section of a long video after three resolutions of its past."""
    frames = torch.arange(4 + 2 + 2 + 3)
    return {
        "hidden_states": randn(batch, 4, 3, 8, 4),
        "timestep": flow_time(batch, noise),
        "encoder_hidden_states": randn(batch, 7, 32),
        "encoder_attention_mask": prompt_mask(batch, 7),
        "pooled_projections": randn(batch, 32),
        "image_embeds": randn(batch, 5, 32),
        "indices_latents": frames[8:],
        "guidance": torch.full((batch,), 9000.0),
        "latents_clean": randn(batch, 4, 2, 8, 4),
        "indices_latents_clean": frames[6:8],
        "latents_history_2x": randn(batch, 4, 2, 8, 4),
        "indices_latents_history_2x": frames[4:6],
        "latents_history_4x": randn(batch, 4, 4, 8, 4),
        "indices_latents_history_4x": frames[:4],
        "return_dict": False,
    }


@tiny_model(
    "HunyuanVideo15Transformer3DModel",
    in_channels=9,
    out_channels=4,
    num_attention_heads=2,
    attention_head_dim=16,
    num_layers=2,
    num_refiner_layers=2,
    text_embed_dim=32,
    text_embed_2_dim=16,
    image_embed_dim=32,
    rope_axes_dim=(4, 6, 6),
)
def hunyuan_video_15(batch: int, noise: float, randn: Randn) -> dict[str, Any]:
    """HunyuanVideo 1.5, image to video; a projection of fixed width 2048 makes most of its size."""
    return {
        "hidden_states": randn(batch, 9, 3, 4, 4),
        "timestep": flow_time(batch, noise),
        "encoder_hidden_states": randn(batch, 7, 32),
        "encoder_attention_mask": prompt_mask(batch, 7),
        "encoder_hidden_states_2": randn(batch, 4, 16),
        "encoder_attention_mask_2": prompt_mask(batch, 4),
        "image_embeds": randn(batch, 5, 32),
        "return_dict": False,
    }


@tiny_model(
    "MotifVideoTransformer3DModel",
    in_channels=9,
    out_channels=4,
    num_attention_heads=2,
    attention_head_dim=16,
    num_layers=2,
    num_single_layers=3,
    num_decoder_layers=1,
    text_embed_dim=32,
    image_embed_dim=32,
    rope_axes_dim=(4, 6, 6),
    enable_text_cross_attention_dual=True,
    enable_text_cross_attention_single=True,
)
def motif_video(batch: int, noise: float, randn: Randn) -> dict[str, Any]:
    """Motif-Video, whose last blocks decode the input tokens with the others' result."""
    return {
        "hidden_states": randn(batch, 9, 3, 8, 8),
        "timestep": flow_time(batch, noise),
        "encoder_hidden_states": randn(batch, 7, 32),
        "encoder_attention_mask": prompt_mask(batch, 7),
        "image_embeds": randn(batch, 5, 32),
        "return_dict": False,
    }
