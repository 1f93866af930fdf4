"""Tiny models of the smaller video, world and audio families."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hyca_calib.zoo.base import Randn, tiny_model


def rotary(length: int, width: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines of a rotary embedding of one axis; both halves of the channels have the same frequencies."""
    frequencies = 10000.0 ** (-torch.arange(0, width, 2) / width)
    angles = torch.outer(torch.arange(length, dtype=torch.float32), frequencies).repeat(1, 2)
    return angles.cos(), angles.sin()


def grid(frames: int, height: int, width: int) -> Tensor:
    """Coordinates of the patches of a video, three rows, as floats."""
    axes = (torch.arange(size, dtype=torch.float32) for size in (frames, height, width))
    return torch.cartesian_prod(*axes).T.contiguous()


@tiny_model(
    "Kandinsky5Transformer3DModel",
    in_visual_dim=4,
    in_text_dim=32,
    in_text_dim2=32,
    time_dim=32,
    out_visual_dim=4,
    patch_size=(1, 2, 2),
    model_dim=32,
    ff_dim=64,
    num_text_blocks=2,
    num_visual_blocks=2,
    axes_dims=(4, 6, 6),
)
def kandinsky5(batch: int, noise: float, randn: Randn) -> dict[str, Any]:
    """The text runs through blocks of its own before the video."""
    return {
        "hidden_states": randn(batch, 2, 8, 8, 4),
        "encoder_hidden_states": randn(batch, 6, 32),
        "pooled_projections": randn(batch, 32),
        "timestep": torch.full((batch,), 1000 * noise),
        "visual_rope_pos": tuple(torch.arange(size) for size in (2, 4, 4)),
        "text_rope_pos": torch.arange(6),
        "return_dict": False,
    }


@tiny_model(
    "Kandinsky6Transformer3DModel",
    in_visual_dim=4,
    out_visual_dim=4,
    in_text_dim=32,
    in_text_dim2=32,
    time_dim=32,
    patch_size=(1, 2, 2),
    model_dim=32,
    ff_dim=64,
    num_text_blocks=2,
    num_visual_blocks=2,
    axes_dims=(4, 6, 6),
    in_audio_dim=8,
    out_audio_dim=8,
    ca_rope=True,
    cross_gates=True,
    fix_modulation=True,
)
def kandinsky6(batch: int, noise: float, randn: Randn) -> dict[str, Any]:
    """Video and sound are denoised together and leave through two output layers."""
    latents = randn(batch, 2, 8, 8, 4)
    condition = torch.zeros(batch, 2, 8, 8, 5)
    return {
        "hidden_states": torch.cat([latents, condition], dim=-1),
        "audio_hidden_states": randn(batch, 8, 8),
        "encoder_hidden_states": randn(batch, 6, 32),
        "pooled_projections": randn(batch, 32),
        "timestep": torch.full((batch,), 1000 * noise),
        "return_dict": False,
    }


@tiny_model(
    "Kandinsky6SRTransformer3DModel",
    in_visual_dim=4,
    out_visual_dim=4,
    time_dim=32,
    model_dim=32,
    ff_dim=64,
    num_visual_blocks=2,
    axes_dims=(4, 6, 6),
)
def kandinsky6_sr(batch: int, noise: float, randn: Randn) -> dict[str, Any]:
    """A latent tile, an anchor and its mask; tokens come in groups of eight by eight."""
    latents = randn(batch, 1, 8, 8, 4)
    anchor = torch.zeros(batch, 1, 8, 8, 5)
    return {
        "hidden_states": torch.cat([latents, anchor], dim=-1),
        "timestep": torch.full((batch,), 1000 * noise),
        "return_dict": False,
    }


@tiny_model(
    "CosmosTransformer3DModel",
    in_channels=4,
    out_channels=4,
    num_attention_heads=2,
    attention_head_dim=18,
    num_layers=2,
    mlp_ratio=2.0,
    text_embed_dim=32,
    adaln_lora_dim=8,
    max_size=(4, 16, 16),
    patch_size=(1, 2, 2),
    concat_padding_mask=False,
)
def cosmos(batch: int, noise: float, randn: Randn) -> dict[str, Any]:
    """Without the padding mask, whose resizing would need torchvision."""
    return {
        "hidden_states": randn(batch, 4, 2, 8, 8),
        "encoder_hidden_states": randn(batch, 6, 32),
        "timestep": torch.full((batch,), noise),
        "fps": 16,
        "return_dict": False,
    }


@tiny_model(
    "Cosmos3OmniTransformer",
    head_dim=16,
    hidden_size=32,
    intermediate_size=64,
    latent_channel=4,
    latent_patch_size=2,
    num_attention_heads=2,
    num_hidden_layers=2,
    num_key_value_heads=1,
    patch_latent_dim=16,
    rope_axes_dim=(4, 2, 2),
    vocab_size=32,
)
def cosmos3(batch: int, noise: float, randn: Randn) -> dict[str, Any]:
    """One packed sequence: the prompt, then every video. The pipeline packs a single video."""
    text = 6
    videos = 8 * batch
    prompt = torch.arange(text)
    shape = (2, 2, 2)
    video = torch.arange(text, text + videos)
    position_ids = torch.cat([prompt.float().repeat(3, 1), (text + grid(*shape)).repeat(1, batch)], dim=1)
    return {
        "input_ids": randn(text).mul(8).long().abs().remainder(32),
        "text_indexes": prompt,
        "position_ids": position_ids,
        "und_len": text,
        "sequence_length": text + videos,
        "vision_tokens": list(randn(batch, 1, 4, 2, 4, 4)),
        "vision_token_shapes": [shape] * batch,
        "vision_sequence_indexes": video,
        "vision_mse_loss_indexes": video,
        "vision_timesteps": torch.full((videos,), 1000 * noise),
        "vision_noisy_frame_indexes": [torch.arange(2)] * batch,
        "return_dict": False,
    }


@tiny_model(
    "AllegroTransformer3DModel",
    patch_size=2,
    num_attention_heads=2,
    attention_head_dim=18,
    in_channels=4,
    out_channels=4,
    num_layers=2,
    cross_attention_dim=36,
    sample_height=8,
    sample_width=8,
    sample_frames=2,
    caption_channels=32,
)
def allegro(batch: int, noise: float, randn: Randn) -> dict[str, Any]:
    """The pipeline, not the model, computes the rotary embedding."""
    return {
        "hidden_states": randn(batch, 4, 2, 8, 8),
        "encoder_hidden_states": randn(batch, 6, 32),
        "encoder_attention_mask": torch.ones(batch, 6),
        "timestep": torch.full((batch,), round(999 * noise)),
        "image_rotary_emb": ((rotary(2, 6), rotary(4, 6), rotary(4, 6)), grid(2, 4, 4).long().unsqueeze(1)),
        "return_dict": False,
    }


@tiny_model(
    "LatteTransformer3DModel",
    num_attention_heads=2,
    attention_head_dim=16,
    in_channels=4,
    out_channels=8,
    num_layers=2,
    cross_attention_dim=32,
    attention_bias=True,
    sample_size=8,
    patch_size=2,
    activation_fn="gelu-approximate",
    num_embeds_ada_norm=1000,
    norm_type="ada_norm_single",
    norm_elementwise_affine=False,
    norm_eps=1e-6,
    caption_channels=32,
    video_length=2,
)
def latte(batch: int, noise: float, randn: Randn) -> dict[str, Any]:
    """Blocks over space and over time take turns; the output has the variance too."""
    return {
        "hidden_states": randn(batch, 4, 2, 8, 8),
        "encoder_hidden_states": randn(batch, 6, 32),
        "timestep": torch.full((batch,), round(999 * noise)),
        "return_dict": False,
    }


@tiny_model(
    "SanaVideoTransformer3DModel",
    in_channels=4,
    out_channels=4,
    num_attention_heads=2,
    attention_head_dim=16,
    num_layers=2,
    num_cross_attention_heads=2,
    cross_attention_head_dim=16,
    cross_attention_dim=32,
    caption_channels=32,
    sample_size=8,
    patch_size=(1, 2, 2),
)
def sana_video(batch: int, noise: float, randn: Randn) -> dict[str, Any]:
    """Linear attention over a video."""
    return {
        "hidden_states": randn(batch, 4, 2, 8, 8),
        "encoder_hidden_states": randn(batch, 6, 32),
        "encoder_attention_mask": torch.ones(batch, 6),
        "timestep": torch.full((batch,), 1000 * noise),
        "return_dict": False,
    }


@tiny_model(
    "SanaWMTransformer3DModel",
    in_channels=4,
    num_layers=2,
    hidden_size=32,
    num_attention_heads=2,
    softmax_every_n=2,
    linear_head_dim=16,
    chunk_plucker_channels=12,
    caption_channels=32,
    mlp_ratio=2.0,
)
def sana_wm(batch: int, noise: float, randn: Randn) -> dict[str, Any]:
    """The first frame is given, hence free of noise; the camera moves sideways."""
    frames, size = 3, 4
    pose = torch.eye(4).repeat(batch, frames, 1, 1)
    pose[:, :, 0, 3] = 0.1 * torch.arange(frames)
    lens = torch.tensor([4.0, 4.0, 2.0, 2.0]).expand(batch, frames, 4)
    timestep = torch.full((batch, 1, frames), 1000 * noise)
    timestep[:, :, 0] = 0
    return {
        "hidden_states": randn(batch, 4, frames, size, size),
        "encoder_hidden_states": randn(batch, 1, 6, 32),
        "mask": torch.ones(batch, 6),
        "timestep": timestep,
        "camera_conditions": torch.cat([pose.flatten(2), lens], dim=-1),
        "chunk_plucker": randn(batch, 12, frames, size, size),
        "return_dict": False,
    }


@tiny_model(
    "AceStepTransformer1DModel",
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=16,
    in_channels=24,
    audio_acoustic_hidden_dim=8,
    patch_size=2,
    sliding_window=4,
)
def ace_step(batch: int, noise: float, randn: Randn) -> dict[str, Any]:
    """The model is told two times, which the pipeline makes equal."""
    return {
        "hidden_states": randn(batch, 32, 8),
        "encoder_hidden_states": randn(batch, 6, 32),
        "context_latents": randn(batch, 32, 16),
        "timestep": torch.full((batch,), noise),
        "timestep_r": torch.full((batch,), noise),
        "return_dict": False,
    }


@tiny_model(
    "AnyFlowTransformer3DModel",
    num_attention_heads=2,
    attention_head_dim=16,
    in_channels=4,
    out_channels=4,
    text_dim=32,
    freq_dim=32,
    ffn_dim=64,
    num_layers=2,
)
def anyflow(batch: int, noise: float, randn: Randn) -> dict[str, Any]:
    """Steps to nine tenths of the noise: the model is told both ends of a step."""
    return {
        "hidden_states": randn(batch, 2, 4, 8, 8),
        "encoder_hidden_states": randn(batch, 6, 32),
        "timestep": torch.full((batch, 2), 1000 * noise),
        "r_timestep": torch.full((batch, 2), 900 * noise),
        "return_dict": False,
    }


@tiny_model(
    "AnyFlowFARTransformer3DModel",
    full_chunk_limit=3,
    num_attention_heads=2,
    attention_head_dim=16,
    in_channels=4,
    out_channels=4,
    text_dim=32,
    freq_dim=32,
    ffn_dim=64,
    num_layers=2,
    chunk_partition=(1, 2),
)
def anyflow_far(batch: int, noise: float, randn: Randn) -> dict[str, Any]:
    """A step of the second chunk, of two frames; keys and values of the first, of one frame, are in the cache."""
    cache = randn(2, 2, batch, 2, 96, 16)
    return {
        "hidden_states": randn(batch, 2, 4, 8, 8),
        "encoder_hidden_states": randn(batch, 6, 32),
        "timestep": torch.full((batch, 2), 1000 * noise),
        "r_timestep": torch.full((batch, 2), 900 * noise),
        "chunk_partition": [1, 2],
        "kv_cache": {
            block: {"full_cache": full, "compressed_cache": torch.zeros(2, batch, 2, 0, 16)}
            for block, full in enumerate(cache)
        },
        "kv_cache_flag": {"num_cached_chunks": 1, "is_cache_step": False},
        "return_dict": False,
    }


@tiny_model(
    "EasyAnimateTransformer3DModel",
    num_attention_heads=2,
    attention_head_dim=16,
    in_channels=4,
    out_channels=4,
    patch_size=2,
    sample_width=8,
    sample_height=8,
    num_layers=2,
    time_embed_dim=32,
    add_norm_text_encoder=True,
    text_embed_dim=32,
)
def easy_animate(batch: int, noise: float, randn: Randn) -> dict[str, Any]:
    """A second norm comes before the modulated one."""
    return {
        "hidden_states": randn(batch, 4, 2, 8, 8),
        "encoder_hidden_states": randn(batch, 6, 32),
        "timestep": torch.full((batch,), 1000 * noise),
        "return_dict": False,
    }


@tiny_model(
    "MiniMaxH3Transformer3DModel",
    num_attention_heads=2,
    attention_head_dim=16,
    hidden_size=32,
    num_layers=2,
    num_refiner_layers=2,
    ffn_dim=64,
    in_channels=4,
    audio_in_channels=8,
    text_dim=32,
    freq_dim=32,
    time_embed_hidden_dim=32,
    time_embed_dim=32,
    rope_freq_dim=2,
)
def minimax_h3(batch: int, noise: float, randn: Randn) -> dict[str, Any]:
    """One packed sequence of text, audio and video, whose layout all samples share."""
    text, audio, video = 6, 6, 16
    positions = torch.zeros(text + audio + video, 3)
    positions[:text, 0] = torch.arange(text)
    positions[text : text + audio, 0] = text + torch.arange(audio)
    positions[text + audio :] = grid(1, 4, 4).T + torch.tensor([text, 0, 0])
    return {
        "hidden_states": randn(batch, video, 16),
        "audio_hidden_states": randn(batch, audio, 8),
        "encoder_hidden_states": randn(batch, text, 32),
        "timestep": torch.full((1,), 1 - noise),
        "timestep_indices": torch.zeros(text + audio + video, dtype=torch.long),
        "token_tags": torch.tensor([1] * text + [2] * audio + [0] * video),
        "position_ids": positions,
        "video_indices": torch.arange(text + audio, text + audio + video),
        "audio_indices": torch.arange(text, text + audio),
        "text_indices": torch.arange(text),
        "return_dict": False,
    }


@tiny_model(
    "StableAudioDiTModel",
    sample_size=32,
    in_channels=8,
    num_layers=2,
    attention_head_dim=16,
    num_attention_heads=2,
    num_key_value_attention_heads=1,
    out_channels=8,
    cross_attention_dim=16,
    time_proj_dim=32,
    global_states_input_dim=32,
    cross_attention_input_dim=32,
)
def stable_audio(batch: int, noise: float, randn: Randn) -> dict[str, Any]:
    """A token of the time precedes the sound; there is no final norm."""
    return {
        "hidden_states": randn(batch, 8, 32),
        "encoder_hidden_states": randn(batch, 6, 32),
        "global_hidden_states": randn(batch, 1, 32),
        "rotary_embedding": rotary(33, 8),
        "timestep": torch.full((1,), noise),
        "return_dict": False,
    }


@tiny_model(
    "StableAudio3DiTModel",
    io_channels=8,
    embed_dim=32,
    depth=2,
    num_heads=2,
    cond_token_dim=32,
    global_cond_dim=32,
    local_add_cond_dim=9,
    timestep_features_dim=32,
    num_memory_tokens=4,
)
def stable_audio3(batch: int, noise: float, randn: Randn) -> dict[str, Any]:
    """Memory tokens precede the sound; there is no final norm."""
    return {
        "hidden_states": randn(batch, 8, 32),
        "encoder_hidden_states": randn(batch, 6, 32),
        "global_hidden_states": randn(batch, 32),
        "encoder_attention_mask": torch.ones(batch, 6, dtype=torch.bool),
        "timestep": torch.full((batch,), noise),
        "return_dict": False,
    }


@tiny_model(
    "LongCatAudioDiTTransformer",
    dit_dim=32,
    dit_depth=2,
    dit_heads=2,
    dit_text_dim=32,
    latent_dim=8,
    ff_mult=2.0,
)
def longcat_audio(batch: int, noise: float, randn: Randn) -> dict[str, Any]:
    """The input is added again after the blocks."""
    return {
        "hidden_states": randn(batch, 32, 8),
        "encoder_hidden_states": randn(batch, 6, 32),
        "encoder_attention_mask": torch.ones(batch, 6, dtype=torch.bool),
        "attention_mask": torch.ones(batch, 32, dtype=torch.bool),
        "latent_cond": torch.zeros(batch, 32, 8),
        "timestep": torch.full((batch,), noise),
        "return_dict": False,
    }


@tiny_model(
    "MiniMaxMusic3Transformer1DModel",
    in_channels=8,
    condition_dim=32,
    num_layers=2,
    num_attention_heads=2,
    attention_head_dim=16,
    ff_inner_dim=64,
    rotary_dim=8,
    fourier_embedding_dim=32,
)
def minimax_music3(batch: int, noise: float, randn: Randn) -> dict[str, Any]:
    """Time runs from 0 to 1, its token precedes the sound; there is no final norm."""
    return {
        "hidden_states": randn(batch, 8, 32),
        "encoder_hidden_states": randn(batch, 32, 32),
        "timestep": torch.full((batch,), 1 - noise),
        "return_dict": False,
    }
