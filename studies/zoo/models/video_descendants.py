"""Descendants of LTX, CogVideoX and HunyuanVideo."""

import torch

from studies.zoo.base import Kwargs, Randn, tiny_model
from studies.zoo.models.shared import TWO_BLOCKS, basics, padded_mask, rotary_pairs
from studies.zoo.models.video import COGVIDEOX, HUNYUAN, LTX, PROMPT, clip, cogvideox

LTX2: Kwargs = LTX | {
    "audio_in_channels": 8, "audio_out_channels": 8, "audio_num_attention_heads": 2, "audio_attention_head_dim": 16,
    "audio_cross_attention_dim": 32,
}  # fmt: skip


@tiny_model("LTX2VideoTransformer3DModel", LTX2)
def ltx2(batch: int, noise: float, randn: Randn) -> Kwargs:
    """LTX-2, which makes video and audio in two streams."""
    mask, time = padded_mask(batch, 7), torch.full((batch,), 1000 * noise)
    return {
        "hidden_states": randn(batch, 3 * 4 * 4, 8),
        "audio_hidden_states": randn(batch, 6, 8),
        "encoder_hidden_states": randn(batch, *PROMPT),
        "audio_encoder_hidden_states": randn(batch, *PROMPT),
        "timestep": time,
        "sigma": time,
        "encoder_attention_mask": mask,
        "audio_encoder_attention_mask": mask,
        "num_frames": 3,
        "height": 4,
        "width": 4,
        "audio_num_frames": 6,
    }


@tiny_model("SanaWMLTX2RefinerTransformer3DModel", LTX2)
def sana_wm_refiner(batch: int, noise: float, randn: Randn) -> Kwargs:
    """Second stage of SANA-WM: a chunk whose past is in a cache."""
    from diffusers.models.transformers.transformer_sana_wm_refiner import SanaWMRefinerKVCache

    cos, sin = rotary_pairs(2 * 4 * 4, 48)
    past = SanaWMRefinerKVCache(2)
    past.sink_pe = (cos[None, :16], sin[None, :16])
    for index in range(2):
        past.get(index).store_sink(randn(batch, 16, 48), randn(batch, 16, 48))
        past.get(index).store_history(randn(batch, 16, 48), randn(batch, 16, 48))
    return basics(batch, noise, randn, (2 * 4 * 4, 8), PROMPT) | {
        "timestep": torch.full((batch, 2 * 4 * 4), 1000 * noise),
        "video_rotary_emb": (cos[None], sin[None]),
        "encoder_attention_mask": padded_mask(batch, 7),
        "kv_cache": past,
        "kv_cache_mode": "inject",
    }


@tiny_model(
    "ConsisIDTransformer3DModel", COGVIDEOX,
    num_attention_heads=3, in_channels=8, is_train_face=True, cross_attn_interval=2, cross_attn_dim_head=16,
    cross_attn_num_heads=2, LFE_id_dim=32, LFE_vit_dim=32, LFE_depth=2, LFE_dim_head=16, LFE_num_heads=2,
    LFE_num_id_token=2, LFE_num_querie=4, LFE_output_dim=32, LFE_ff_mult=2, LFE_num_scale=2,
)  # fmt: skip
def consis_id(batch: int, noise: float, randn: Randn) -> Kwargs:
    """ConsisID: CogVideoX with a face attended to after some blocks."""
    return cogvideox(batch, noise, randn, channels=8) | {
        "id_cond": randn(batch, 32),
        "id_vit_hidden": [randn(batch, 5, 32), randn(batch, 5, 32)],
    }


@tiny_model(
    "MochiTransformer3DModel", TWO_BLOCKS,
    pooled_projection_dim=16, in_channels=4, text_embed_dim=32, time_embed_dim=32, max_sequence_length=7,
)  # fmt: skip
def mochi(batch: int, noise: float, randn: Randn) -> Kwargs:
    """Mochi, whose time runs from 0 to 1000."""
    return clip(batch, 1 - noise, randn) | {"encoder_attention_mask": padded_mask(batch, 7).bool()}


@tiny_model(
    "HunyuanVideoFramepackTransformer3DModel", HUNYUAN,
    has_image_proj=True, image_proj_dim=32, has_clean_x_embedder=True,
)  # fmt: skip
def framepack(batch: int, noise: float, randn: Randn) -> Kwargs:
    """HunyuanVideo FramePack, a section of a long video after three resolutions of its past."""
    frames = torch.arange(4 + 2 + 2 + 3)
    return basics(batch, noise, randn, (4, 3, 8, 4), PROMPT) | {
        "encoder_attention_mask": padded_mask(batch, 7),
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
    }


@tiny_model(
    "HunyuanVideo15Transformer3DModel", TWO_BLOCKS,
    in_channels=9, out_channels=4, num_refiner_layers=2, text_embed_dim=32, text_embed_2_dim=16, image_embed_dim=32,
    rope_axes_dim=(4, 6, 6),
)  # fmt: skip
def hunyuan_video_15(batch: int, noise: float, randn: Randn) -> Kwargs:
    """HunyuanVideo 1.5, image to video; a projection of fixed width 2048 makes most of its size."""
    return basics(batch, noise, randn, (9, 3, 4, 4), PROMPT) | {
        "encoder_attention_mask": padded_mask(batch, 7),
        "encoder_hidden_states_2": randn(batch, 4, 16),
        "encoder_attention_mask_2": padded_mask(batch, 4),
        "image_embeds": randn(batch, 5, 32),
    }


@tiny_model(
    "MotifVideoTransformer3DModel", TWO_BLOCKS,
    in_channels=9, out_channels=4, num_single_layers=3, num_decoder_layers=1, text_embed_dim=32, image_embed_dim=32,
    rope_axes_dim=(4, 6, 6), enable_text_cross_attention_dual=True, enable_text_cross_attention_single=True,
)  # fmt: skip
def motif_video(batch: int, noise: float, randn: Randn) -> Kwargs:
    """Motif-Video, whose last blocks decode the input tokens with the others' result."""
    return clip(batch, noise, randn, channels=9) | {
        "encoder_attention_mask": padded_mask(batch, 7),
        "image_embeds": randn(batch, 5, 32),
    }
