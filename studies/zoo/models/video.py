"""Wan, HunyuanVideo, LTX and CogVideoX, from which most other networks for video descend."""

import torch

from studies.zoo.base import Kwargs, Randn, tiny_model
from studies.zoo.models.shared import FOUR_CHANNELS, TWO_BLOCKS, WAN, basics, padded_mask, rotary_pairs, whole_step

PROMPT = (7, 32)

HUNYUAN: Kwargs = TWO_BLOCKS | FOUR_CHANNELS | {
    "num_single_layers": 2, "num_refiner_layers": 2, "text_embed_dim": 32, "pooled_projection_dim": 32,
    "rope_axes_dim": (4, 6, 6),
}  # fmt: skip
LTX: Kwargs = TWO_BLOCKS | {
    "attention_head_dim": 24, "in_channels": 8, "out_channels": 8, "cross_attention_dim": 48, "caption_channels": 32,
}  # fmt: skip
COGVIDEOX: Kwargs = TWO_BLOCKS | FOUR_CHANNELS | {
    "time_embed_dim": 32, "text_embed_dim": 32, "sample_width": 8, "sample_height": 8, "sample_frames": 9,
    "max_text_seq_length": 7, "use_rotary_positional_embeddings": True,
}  # fmt: skip


def clip(batch: int, noise: float, randn: Randn, channels: int = 4) -> Kwargs:
    """A video of three frames, a prompt and the time."""
    return basics(batch, noise, randn, (channels, 3, 8, 8), PROMPT)


@tiny_model("WanTransformer3DModel", WAN, rope_max_seq_len=32)
def wan(batch: int, noise: float, randn: Randn) -> Kwargs:
    """Wan 2.1 and 2.2, text to video."""
    return clip(batch, noise, randn)


@tiny_model("HunyuanVideoTransformer3DModel", HUNYUAN)
def hunyuan_video(batch: int, noise: float, randn: Randn) -> Kwargs:
    """HunyuanVideo, text to video, with a refiner of the prompt inside `context_embedder`."""
    return clip(batch, noise, randn) | {
        "encoder_attention_mask": padded_mask(batch, 7),
        "pooled_projections": randn(batch, 32),
        "guidance": torch.full((batch,), 6000.0),
    }


@tiny_model("LTXVideoTransformer3DModel", LTX)
def ltx(batch: int, noise: float, randn: Randn) -> Kwargs:
    """LTX-Video, whose latents come packed as tokens."""
    return basics(batch, noise, randn, (3 * 4 * 4, 8), PROMPT) | {
        "encoder_attention_mask": padded_mask(batch, 7),
        "num_frames": 3,
        "height": 4,
        "width": 4,
        "rope_interpolation_scale": (8 / 25, 32, 32),
    }


@tiny_model("CogVideoXTransformer3DModel", COGVIDEOX)
def cogvideox(batch: int, noise: float, randn: Randn, channels: int = 4) -> Kwargs:
    """CogVideoX 5B, whose latents have frames before channels."""
    return basics(batch, noise, randn, (3, channels, 8, 8), PROMPT) | {
        "timestep": whole_step(batch, noise),
        "image_rotary_emb": rotary_pairs(3 * 4 * 4, 16),
    }
