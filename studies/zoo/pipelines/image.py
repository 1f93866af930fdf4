"""Other pipelines that make images."""

import torch

from studies.zoo.base import Kwargs, Randn, tiny_pipeline
from studies.zoo.pipelines.parts import (
    SIDE,
    SQUARE,
    autoencoder,
    flow,
    masked_prompts,
    network,
    part,
    pooled_prompts,
    prompts,
)


@tiny_pipeline(
    "SD3",
    "StableDiffusion3Pipeline",
    transformer=network("SD3Transformer2DModel", dual_attention_layers=(), qk_norm=None),
    vae=autoencoder(shift_factor=0.0609),
    scheduler=flow(shift=3.0),
)
def sd3(randn: Randn) -> Kwargs:
    """One call a step, of a batch of two: negative, positive."""
    return prompts(randn) | pooled_prompts(randn) | SQUARE | {"guidance_scale": 4.0}


@tiny_pipeline(
    "Chroma",
    "ChromaPipeline",
    transformer=network("ChromaTransformer2DModel"),
    vae=autoencoder(shift_factor=0.1159),
    scheduler=flow(),
)
def chroma(randn: Randn) -> Kwargs:
    """Two calls a step without contexts; padding is masked."""
    return masked_prompts(randn, torch.bool) | SQUARE | {"guidance_scale": 4.0}


@tiny_pipeline(
    "PixArt-alpha",
    "PixArtAlphaPipeline",
    # Of this size it is told size and aspect ratio.
    transformer=network("PixArtTransformer2DModel", sample_size=128),
    vae=autoencoder(),
    scheduler=part("DPMSolverMultistepScheduler"),
)
def pixart_alpha(randn: Randn) -> Kwargs:
    """One call a step, of a batch of two: negative, positive."""
    options = {"negative_prompt": None, "guidance_scale": 4.0, "use_resolution_binning": False}
    return masked_prompts(randn) | SQUARE | options


@tiny_pipeline(
    "DiT",
    "DiTPipeline",
    transformer=network("DiTTransformer2DModel"),
    vae=autoencoder(),
    scheduler=part("DDIMScheduler", clip_sample=False),
)
def dit(randn: Randn) -> Kwargs:
    """One call a step, of a batch of two: class, no class. The pipeline gives pixels, never latents."""
    return {"class_labels": [int(randn(1).abs() * 100)], "guidance_scale": 4.0, "output_type": "pt"}


@tiny_pipeline(
    "Sana",
    "SanaPipeline",
    transformer=network("SanaTransformer2DModel", caption_channels=32),
    vae=part(
        "AutoencoderDC",
        latent_channels=8,
        encoder_block_out_channels=(8, 8, 8),
        decoder_block_out_channels=(8, 8, 8),
        encoder_layers_per_block=(1, 1, 1),
        decoder_layers_per_block=(1, 1, 1),
        encoder_qkv_multiscales=((), (), ()),
        decoder_qkv_multiscales=((), (), ()),
    ),
    scheduler=part(
        "DPMSolverMultistepScheduler", prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    ),
)
def sana(randn: Randn) -> Kwargs:
    """One call a step, of a batch of two: negative, positive."""
    return pixart_alpha(randn)


@tiny_pipeline(
    "Z-Image",
    "ZImagePipeline",
    transformer=network("ZImageTransformer2DModel", cap_feat_dim=32),
    vae=autoencoder(shift_factor=0.1159),
    scheduler=flow(shift=6.0),
)
def z_image(randn: Randn) -> Kwargs:
    """One call a step, of lists of two: positive, negative. Prompts are padded to 64 and to 32 tokens."""
    return SQUARE | {
        "prompt_embeds": [randn(36, 32)],
        "negative_prompt_embeds": [randn(20, 32)],
        "guidance_scale": 4.0,
    }


@tiny_pipeline(
    "Lumina2",
    "Lumina2Pipeline",
    transformer=network("Lumina2Transformer2DModel", cap_feat_dim=32),
    vae=autoencoder(shift_factor=0.1159),
    scheduler=flow(shift=6.0),
)
def lumina2(randn: Randn) -> Kwargs:
    """Two calls a step without contexts, of sequences of different lengths."""
    # The pipeline takes its autoencoder to shrink sides by 8 whatever autoencoder it has.
    size = {"height": 4 * SIDE, "width": 4 * SIDE}
    return masked_prompts(randn) | size | {"guidance_scale": 4.0}
