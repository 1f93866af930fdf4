"""CogView and relatives: joint attention of a prompt and an image that the model cuts into patches itself."""

import torch

from studies.zoo.base import Kwargs, Randn, tiny_model
from studies.zoo.models.shared import FOUR_CHANNELS, TWO_BLOCKS, basics, whole_step

SIDE = 4  # patches per side of the image
PATCHED = (4, 2 * SIDE, 2 * SIDE)

COGVIEW: Kwargs = TWO_BLOCKS | FOUR_CHANNELS | {"text_embed_dim": 32, "time_embed_dim": 32, "condition_dim": 16}


def cut_out(batch: int) -> Kwargs:
    """Height and width of the image, and where it was cut out."""
    return {"target_size": torch.full((batch, 2), 64.0), "crop_coords": torch.zeros(batch, 2)}


@tiny_model(
    "HunyuanImageTransformer2DModel", TWO_BLOCKS, FOUR_CHANNELS,
    num_single_layers=2, num_refiner_layers=2, patch_size=(1, 1), text_embed_dim=32, rope_axes_dim=(8, 8),
)  # fmt: skip
def hunyuan_image(batch: int, noise: float, randn: Randn) -> Kwargs:
    """HunyuanImage 2.1 without its second text encoder."""
    return basics(batch, noise, randn, (4, SIDE, SIDE)) | {"encoder_attention_mask": torch.ones(batch, 8)}


@tiny_model("GlmImageTransformer2DModel", COGVIEW, prior_vq_quantizer_codebook_size=64)
def glm_image(batch: int, noise: float, randn: Randn) -> Kwargs:
    """GLM-Image: tokens of a language model come with the latents."""
    tokens = {
        "prior_token_id": (3 * torch.arange(SIDE * SIDE)).expand(batch, -1),
        "prior_token_drop": torch.zeros(batch, SIDE * SIDE, dtype=torch.bool),
    }
    return basics(batch, noise, randn, PATCHED, top=999) | cut_out(batch) | tokens


@tiny_model("CogView4Transformer2DModel", COGVIEW, sample_size=16, rope_axes_dim=(16, 16))
def cogview4(batch: int, noise: float, randn: Randn) -> Kwargs:
    """CogView4."""
    return basics(batch, noise, randn, PATCHED) | cut_out(batch) | {"original_size": torch.full((batch, 2), 64.0)}


@tiny_model("CogView3PlusTransformer2DModel", COGVIEW, pos_embed_max_size=8, sample_size=8)
def cogview3_plus(batch: int, noise: float, randn: Randn) -> Kwargs:
    """CogView3-Plus: time is the number of a diffusion step."""
    return cogview4(batch, noise, randn) | {"timestep": whole_step(batch, noise)}


@tiny_model(
    "AuraFlowTransformer2DModel", FOUR_CHANNELS,
    sample_size=8, num_mmdit_layers=2, num_single_dit_layers=2, attention_head_dim=16, num_attention_heads=2,
    joint_attention_dim=32, caption_projection_dim=32, pos_embed_max_size=64,
)  # fmt: skip
def aura_flow(batch: int, noise: float, randn: Randn) -> Kwargs:
    """AuraFlow: time is the share of noise."""
    return basics(batch, noise, randn, PATCHED, top=1)
