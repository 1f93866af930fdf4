"""Descendants of PixArt and of Sana for video."""

import torch

from studies.zoo.base import Kwargs, Randn, tiny_model
from studies.zoo.models.dit import CROSS
from studies.zoo.models.shared import FOUR_CHANNELS, TWO_BLOCKS, basics, grid, rotary_halves, whole_step

CLIP, PROMPT = (4, 2, 8, 8), (6, 32)


@tiny_model(
    "AllegroTransformer3DModel", TWO_BLOCKS, FOUR_CHANNELS,
    attention_head_dim=18, patch_size=2, cross_attention_dim=36, sample_height=8, sample_width=8, sample_frames=2,
    caption_channels=32,
)  # fmt: skip
def allegro(batch: int, noise: float, randn: Randn) -> Kwargs:
    """The pipeline, not the model, computes the rotary embedding."""
    rotary = tuple(rotary_halves(length, 6) for length in (2, 4, 4))
    return basics(batch, noise, randn, CLIP, PROMPT) | {
        "encoder_attention_mask": torch.ones(batch, 6),
        "timestep": whole_step(batch, noise),
        "image_rotary_emb": (rotary, grid(2, 4, 4).T.long().unsqueeze(1)),
    }


@tiny_model(
    "LatteTransformer3DModel", TWO_BLOCKS,
    in_channels=4, out_channels=8, cross_attention_dim=32, attention_bias=True, sample_size=8, patch_size=2,
    activation_fn="gelu-approximate", num_embeds_ada_norm=1000, norm_type="ada_norm_single",
    norm_elementwise_affine=False, norm_eps=1e-6, caption_channels=32, video_length=2,
)  # fmt: skip
def latte(batch: int, noise: float, randn: Randn) -> Kwargs:
    """Blocks over space and over time take turns; the output has the variance too."""
    return basics(batch, noise, randn, CLIP, PROMPT) | {"timestep": whole_step(batch, noise)}


@tiny_model(
    "SanaVideoTransformer3DModel", TWO_BLOCKS, FOUR_CHANNELS, CROSS,
    caption_channels=32, sample_size=8, patch_size=(1, 2, 2),
)  # fmt: skip
def sana_video(batch: int, noise: float, randn: Randn) -> Kwargs:
    """Linear attention over a video."""
    return basics(batch, noise, randn, CLIP, PROMPT) | {"encoder_attention_mask": torch.ones(batch, 6)}


@tiny_model(
    "SanaWMTransformer3DModel",
    in_channels=4, num_layers=2, hidden_size=32, num_attention_heads=2, softmax_every_n=2, linear_head_dim=16,
    chunk_plucker_channels=12, caption_channels=32, mlp_ratio=2.0,
)  # fmt: skip
def sana_wm(batch: int, noise: float, randn: Randn) -> Kwargs:
    """The first frame is given, hence free of noise; the camera moves sideways."""
    frames, size = 3, 4
    pose = torch.eye(4).repeat(batch, frames, 1, 1)
    pose[:, :, 0, 3] = 0.1 * torch.arange(frames)
    lens = torch.tensor([4.0, 4.0, 2.0, 2.0]).expand(batch, frames, 4)
    timestep = torch.full((batch, 1, frames), 1000 * noise)
    timestep[:, :, 0] = 0
    return basics(batch, noise, randn, (4, frames, size, size), (1, 6, 32)) | {
        "mask": torch.ones(batch, 6),
        "timestep": timestep,
        "camera_conditions": torch.cat([pose.flatten(2), lens], dim=-1),
        "chunk_plucker": randn(batch, 12, frames, size, size),
    }
