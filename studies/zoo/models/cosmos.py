"""Cosmos, models of the world."""

import torch

from studies.zoo.base import Kwargs, Randn, tiny_model
from studies.zoo.models.shared import FOUR_CHANNELS, TWO_BLOCKS, basics, grid


@tiny_model(
    "CosmosTransformer3DModel", TWO_BLOCKS, FOUR_CHANNELS,
    attention_head_dim=18, mlp_ratio=2.0, text_embed_dim=32, adaln_lora_dim=8, max_size=(4, 16, 16),
    patch_size=(1, 2, 2), concat_padding_mask=False,
)  # fmt: skip
def cosmos(batch: int, noise: float, randn: Randn) -> Kwargs:
    """Without the padding mask, whose resizing would need torchvision."""
    return basics(batch, noise, randn, (4, 2, 8, 8), (6, 32), top=1) | {"fps": 16}


@tiny_model(
    "Cosmos3OmniTransformer",
    head_dim=16, hidden_size=32, intermediate_size=64, latent_channel=4, latent_patch_size=2, num_attention_heads=2,
    num_hidden_layers=2, num_key_value_heads=1, patch_latent_dim=16, rope_axes_dim=(4, 2, 2), vocab_size=32,
)  # fmt: skip
def cosmos3(batch: int, noise: float, randn: Randn) -> Kwargs:
    """One packed sequence: the prompt, then every video. The pipeline packs a single video."""
    text, videos, shape = 6, 8 * batch, (2, 2, 2)
    prompt, video = torch.arange(text), torch.arange(text, text + videos)
    return {
        "input_ids": randn(text).mul(8).long().abs().remainder(32),
        "text_indexes": prompt,
        "position_ids": torch.cat([prompt.float().repeat(3, 1), (text + grid(*shape)).T.repeat(1, batch)], dim=1),
        "und_len": text,
        "sequence_length": text + videos,
        "vision_tokens": list(randn(batch, 1, 4, 2, 4, 4)),
        "vision_token_shapes": [shape] * batch,
        "vision_sequence_indexes": video,
        "vision_mse_loss_indexes": video,
        "vision_timesteps": torch.full((videos,), 1000 * noise),
        "vision_noisy_frame_indexes": [torch.arange(2)] * batch,
    }
