"""FLUX, Qwen-Image, and what descends from them: joint attention of a prompt and an image packed as tokens."""

import torch

from studies.zoo.base import Kwargs, Randn, tiny_model
from studies.zoo.models.shared import TWO_BLOCKS, basics, grid

TEXT = 8  # tokens of the prompt
SIDE = 4  # tokens per side of the image

JOINT: Kwargs = TWO_BLOCKS | {"in_channels": 16, "joint_attention_dim": 32, "axes_dims_rope": (4, 6, 6)}
FLUX: Kwargs = JOINT | {"num_single_layers": 2}


def packed(batch: int, noise: float, randn: Randn, top: float = 1) -> Kwargs:
    """Latents as a sequence of tokens with 16 channels, and a prompt; time is the share of noise."""
    return basics(batch, noise, randn, (SIDE * SIDE, 16), (TEXT, 32), top)


def positions(axes: int = 3, plane: int = 0, counted: tuple[int, ...] = ()) -> Kwargs:
    """Of the image's tokens: plane, row, column; of the prompt's: their number on the axes that count them."""
    image, text = torch.zeros(SIDE * SIDE, axes), torch.zeros(TEXT, axes)
    image[:, :3] = grid(1, SIDE, SIDE)
    image[:, 0] = plane
    for axis in counted:
        text[:, axis] = torch.arange(TEXT)
    return {"img_ids": image, "txt_ids": text}


def shapes(batch: int) -> Kwargs:
    """Of the image and the prompt, as the Qwen-Image family is told them."""
    return {
        "encoder_hidden_states_mask": torch.ones(batch, TEXT, dtype=torch.bool),
        "img_shapes": [[(1, SIDE, SIDE)]] * batch,
    }


@tiny_model("FluxTransformer2DModel", FLUX, pooled_projection_dim=32, guidance_embeds=False)
def flux(batch: int, noise: float, randn: Randn) -> Kwargs:
    """FLUX.1."""
    return packed(batch, noise, randn) | positions() | {"pooled_projections": randn(batch, 32)}


@tiny_model("Flux2Transformer2DModel", FLUX, timestep_guidance_channels=32, axes_dims_rope=(4, 4, 4, 4))
def flux2(batch: int, noise: float, randn: Randn) -> Kwargs:
    """FLUX.2: the guidance scale is an input; each sample has its positions."""
    ids = {name: one.expand(batch, -1, -1) for name, one in positions(4, counted=(3,)).items()}
    return packed(batch, noise, randn) | ids | {"guidance": torch.full((batch,), 4.0)}


@tiny_model("Flux3Transformer2DModel", FLUX, cond_in_channels=16, timestep_channels=32, axes_dims_rope=(4, 4, 4, 4))
def flux3(batch: int, noise: float, randn: Randn) -> Kwargs:
    """FLUX.3 without reference images (their share of ``mode_blocks`` stays idle)."""
    return packed(batch, noise, randn) | positions(4, counted=(3,))


@tiny_model(
    "ChromaTransformer2DModel", FLUX,
    approximator_num_channels=16, approximator_hidden_dim=32, approximator_layers=2,
)  # fmt: skip
def chroma(batch: int, noise: float, randn: Randn) -> Kwargs:
    """Chroma: a small network derives all modulations from the time."""
    mask = torch.ones(batch, TEXT + SIDE * SIDE)
    return packed(batch, noise, randn) | positions() | {"attention_mask": mask}


@tiny_model("BriaTransformer2DModel", FLUX)
def bria(batch: int, noise: float, randn: Randn) -> Kwargs:
    """Bria 3.2: time is in thousandths."""
    return packed(batch, noise, randn, top=1000) | positions()


@tiny_model("BriaFiboTransformer2DModel", FLUX, text_encoder_dim=24)
def bria_fibo(batch: int, noise: float, randn: Randn) -> Kwargs:
    """Bria FIBO: time is in thousandths; every block gets a layer of the text encoder."""
    return bria(batch, noise, randn) | {
        "text_encoder_layers": [randn(batch, TEXT, 24) for _ in range(2 + 2)],
        "joint_attention_kwargs": {},
    }


@tiny_model(
    "BriaFibo2Transformer2DModel",
    in_channels=4, patch_size=2, dim=32, n_layers=2, n_refiner_layers=2, n_heads=2, cap_feat_dim=32,
    injection_layer_ids=(1,), perceiver_num_layers=2, min_num_gist_tokens=8, max_num_gist_tokens=16, gist_step=8,
    gist_min_text_len=8, gist_max_text_len=32, axes_dims=(4, 6, 6), axes_lens=(32, 16, 16),
)  # fmt: skip
def bria_fibo2(batch: int, noise: float, randn: Randn) -> Kwargs:
    """Bria FIBO 2: the first bundle of text goes to the resampler, the rest to blocks."""
    return basics(batch, noise, randn, (4, 8, 8), top=1) | {"encoder_hidden_states": randn(batch, 2, TEXT, 32)}


@tiny_model("OvisImageTransformer2DModel", FLUX, out_channels=16)
def ovis_image(batch: int, noise: float, randn: Randn) -> Kwargs:
    """Ovis-Image."""
    return packed(batch, noise, randn) | positions(counted=(1, 2))


@tiny_model("LongCatImageTransformer2DModel", FLUX, pooled_projection_dim=32)
def longcat_image(batch: int, noise: float, randn: Randn) -> Kwargs:
    """LongCat-Image."""
    return packed(batch, noise, randn) | positions(plane=1, counted=(1, 2))


@tiny_model("QwenImageTransformer2DModel", JOINT, patch_size=2, out_channels=4)
def qwen_image(batch: int, noise: float, randn: Randn) -> Kwargs:
    """Qwen-Image."""
    return packed(batch, noise, randn) | shapes(batch)


@tiny_model(
    "QwenImage21Transformer2DModel", TWO_BLOCKS,
    in_channels=16, out_channels=16, context_in_dim=32, axes_dims_rope=(4, 6, 6),
)  # fmt: skip
def qwen_image21(batch: int, noise: float, randn: Randn) -> Kwargs:
    """Qwen-Image 2.1: the output covers the prompt's tokens too."""
    # One slot of the text encoder's sequence stands for four tokens of the image.
    slots = torch.arange(TEXT + SIDE * SIDE // 4) >= TEXT
    return packed(batch, noise, randn) | shapes(batch) | {"img_mask": slots.expand(batch, -1)}


@tiny_model(
    "NucleusMoEImageTransformer2DModel", JOINT,
    patch_size=2, out_channels=4, num_key_value_heads=1, mlp_ratio=6.0, dense_moe_strategy="leave_first_block_dense",
    num_experts=4, moe_intermediate_dim=32, capacity_factors=2.0,
)  # fmt: skip
def nucleus_moe_image(batch: int, noise: float, randn: Randn) -> Kwargs:
    """Nucleus-Image, one dense block and one with experts."""
    return packed(batch, noise, randn) | shapes(batch) | {"img_shapes": [(1, SIDE, SIDE)] * batch}
