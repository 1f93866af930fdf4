"""Networks for sound and video that belong to no other family."""

import torch

from studies.zoo.base import Kwargs, Randn, tiny_model
from studies.zoo.models.shared import FOUR_CHANNELS, TWO_BLOCKS, WAN, basics, grid


@tiny_model(
    "AceStepTransformer1DModel",
    hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
    head_dim=16, in_channels=24, audio_acoustic_hidden_dim=8, patch_size=2, sliding_window=4,
)  # fmt: skip
def ace_step(batch: int, noise: float, randn: Randn) -> Kwargs:
    """The model is told two times, which the pipeline makes equal."""
    return basics(batch, noise, randn, (32, 8), (6, 32), top=1) | {
        "context_latents": randn(batch, 32, 16),
        "timestep_r": torch.full((batch,), noise),
    }


@tiny_model("AnyFlowTransformer3DModel", WAN)
def anyflow(batch: int, noise: float, randn: Randn) -> Kwargs:
    """Steps to nine tenths of the noise: the model is told both ends of a step."""
    return basics(batch, noise, randn, (2, 4, 8, 8), (6, 32)) | {
        "timestep": torch.full((batch, 2), 1000 * noise),
        "r_timestep": torch.full((batch, 2), 900 * noise),
    }


@tiny_model("AnyFlowFARTransformer3DModel", WAN, full_chunk_limit=3, chunk_partition=(1, 2))
def anyflow_far(batch: int, noise: float, randn: Randn) -> Kwargs:
    """A step of the second chunk, of two frames; keys and values of the first, of one frame, are in the cache."""
    cache = randn(2, 2, batch, 2, 96, 16)
    return anyflow(batch, noise, randn) | {
        "chunk_partition": [1, 2],
        "kv_cache": {
            block: {"full_cache": full, "compressed_cache": torch.zeros(2, batch, 2, 0, 16)}
            for block, full in enumerate(cache)
        },
        "kv_cache_flag": {"num_cached_chunks": 1, "is_cache_step": False},
    }


@tiny_model(
    "EasyAnimateTransformer3DModel", TWO_BLOCKS, FOUR_CHANNELS,
    patch_size=2, sample_width=8, sample_height=8, time_embed_dim=32, add_norm_text_encoder=True, text_embed_dim=32,
)  # fmt: skip
def easy_animate(batch: int, noise: float, randn: Randn) -> Kwargs:
    """A second norm comes before the modulated one."""
    return basics(batch, noise, randn, (4, 2, 8, 8), (6, 32))


@tiny_model(
    "MiniMaxH3Transformer3DModel", TWO_BLOCKS,
    hidden_size=32, num_refiner_layers=2, ffn_dim=64, in_channels=4, audio_in_channels=8, text_dim=32, freq_dim=32,
    time_embed_hidden_dim=32, time_embed_dim=32, rope_freq_dim=2,
)  # fmt: skip
def minimax_h3(batch: int, noise: float, randn: Randn) -> Kwargs:
    """One packed sequence of text, audio and video, whose layout all samples share."""
    text, audio, video = 6, 6, 16
    positions = torch.zeros(text + audio + video, 3)
    positions[: text + audio, 0] = torch.arange(text + audio)
    positions[text + audio :] = grid(1, 4, 4) + torch.tensor([text, 0, 0])
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
    }
