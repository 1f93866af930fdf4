"""Tiny pipelines that make images: real diffusers pipelines, random weights, prompts given as embeddings.

Guidance is on wherever the pipeline has one, and prompts differ in length where it allows that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from hyca_calib.zoo.base import Randn, quiet, randomise, tiny_pipeline

SIDE = 32
"""Pixels; with autoencoders of one halving and patches of 2 x 2 latents this makes 64 tokens."""

Part = tuple[str, dict[str, Any]]
"""A class of diffusers and its configuration."""


def part(kind: str, **config: Any) -> Part:
    """A component of a pipeline, to be made by `assemble`."""
    return kind, config


def assemble(pipeline: str, *, transformer: Part, vae: Part, scheduler: Part, without: str = "") -> Callable[[], Any]:
    """A function that builds a pipeline of random weights, always the same.

    Args:
        pipeline: class of diffusers.
        transformer: to be cached.
        vae: in pixels and out of pixels.
        scheduler: of the class that the released model comes with.
        without: components that are None, separated by blanks.
    """

    def build() -> Any:
        with quiet(), torch.random.fork_rng(devices=[]):
            import diffusers

            torch.manual_seed(0)

            def make(kind: str, config: dict[str, Any]) -> Any:
                return getattr(diffusers, kind)(**config)

            pipe = getattr(diffusers, pipeline)(
                transformer=randomise(make(*transformer).eval(), seed=0),
                vae=make(*vae).eval(),  # as it comes: larger weights would saturate its pixels
                scheduler=make(*scheduler),
                **dict.fromkeys(without.split()),
            )
        pipe.set_progress_bar_config(disable=True)
        return pipe

    return build


def picture(randn: Randn) -> Tensor:
    """An image as the pipelines take it: one of three channels in 0 to 1."""
    return randn(1, 3, SIDE, SIDE).sigmoid()


def ones(count: int, length: int) -> Tensor:
    """Mask of a prompt of `count` tokens, padded to `length`."""
    return (torch.arange(length) < count).long()[None]


def autoencoder(shift: float | None = None) -> Part:
    """`AutoencoderKL` of four latent channels that halves the sides once."""
    return part(
        "AutoencoderKL",
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(4, 4),
        norm_num_groups=2,
        latent_channels=4,
        sample_size=SIDE,
        shift_factor=shift,
    )


def flow(**config: Any) -> Part:
    """The scheduler of most flow matching models."""
    return part("FlowMatchEulerDiscreteScheduler", **config)


# FLUX.1

ONE_ENCODER = "text_encoder tokenizer"
TWO_ENCODERS = f"{ONE_ENCODER} text_encoder_2 tokenizer_2"


def flux_parts(in_channels: int = 16) -> dict[str, Any]:
    """Components of every FLUX.1 pipeline."""
    return {
        "transformer": part(
            "FluxTransformer2DModel",
            in_channels=in_channels,
            out_channels=16,
            num_layers=2,
            num_single_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            pooled_projection_dim=32,
            guidance_embeds=True,
            axes_dims_rope=(4, 6, 6),
        ),
        "vae": autoencoder(shift=0.1159),
        "scheduler": flow(shift=3.0, use_dynamic_shifting=True),
        "without": TWO_ENCODERS,
    }


def flux_prompt(randn: Randn) -> dict[str, Any]:
    """Prompt of a FLUX.1 pipeline and the size of its image."""
    return {
        "prompt_embeds": randn(1, 8, 32),
        "pooled_prompt_embeds": randn(1, 32),
        "guidance_scale": 3.5,
        "height": SIDE,
        "width": SIDE,
    }


def flux_guidance(randn: Randn) -> dict[str, Any]:
    """Guidance by a negative prompt on top of the distilled one."""
    return {
        "negative_prompt_embeds": -randn(1, 8, 32),
        "negative_pooled_prompt_embeds": -randn(1, 32),
        "true_cfg_scale": 4.0,
    }


@tiny_pipeline("FLUX.1", assemble("FluxPipeline", **flux_parts()))
def flux(randn: Randn) -> dict[str, Any]:
    """Two calls a step, in contexts "cond" and "uncond"."""
    return flux_prompt(randn) | flux_guidance(randn)


STRENGTH = 0.6


@tiny_pipeline(
    "FLUX.1 image to image",
    assemble("FluxImg2ImgPipeline", **flux_parts()),
    runs_steps=lambda steps: steps - int(max(steps - steps * STRENGTH, 0)),
)
def flux_image_to_image(randn: Randn) -> dict[str, Any]:
    """The schedule's first steps are left out; two calls a step without contexts."""
    return flux_prompt(randn) | flux_guidance(randn) | {"image": picture(randn), "strength": STRENGTH}


@tiny_pipeline("FLUX.1 Kontext", assemble("FluxKontextPipeline", **flux_parts()))
def flux_kontext(randn: Randn) -> dict[str, Any]:
    """Tokens of the input image follow those of the image in the making; two calls a step without contexts."""
    size = {"max_area": SIDE * SIDE, "_auto_resize": False}
    return flux_prompt(randn) | flux_guidance(randn) | {"image": picture(randn)} | size


# Channels of a token: 16 of the latents, 16 of the masked image, 4 pixels of mask for each of 4 latents.
@tiny_pipeline("FLUX.1 Fill", assemble("FluxFillPipeline", **flux_parts(in_channels=16 + 16 + 16)))
def flux_fill(randn: Randn) -> dict[str, Any]:
    """The masked image comes in further channels; one call a step, as guidance is distilled."""
    mask = torch.zeros(1, 1, SIDE, SIDE)
    mask[..., : SIDE // 2] = 1.0
    return flux_prompt(randn) | {"image": picture(randn), "mask_image": mask, "guidance_scale": 30.0}


# FLUX.2


def flux2_parts(guidance_embeds: bool) -> dict[str, Any]:
    """Components of every FLUX.2 pipeline."""
    return {
        "transformer": part(
            "Flux2Transformer2DModel",
            in_channels=16,
            num_layers=2,
            num_single_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            timestep_guidance_channels=32,
            axes_dims_rope=(4, 4, 4, 4),
            guidance_embeds=guidance_embeds,
        ),
        "vae": part(
            "AutoencoderKLFlux2",
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            block_out_channels=(4, 4),
            layers_per_block=1,
            norm_num_groups=2,
            latent_channels=4,
            sample_size=SIDE,
        ),
        "scheduler": flow(shift=3.0, use_dynamic_shifting=True),
        "without": ONE_ENCODER,
    }


@tiny_pipeline("FLUX.2", assemble("Flux2Pipeline", **flux2_parts(guidance_embeds=True)))
def flux2(randn: Randn) -> dict[str, Any]:
    """One call a step, as guidance is distilled and nothing else is on offer."""
    return {"prompt_embeds": randn(1, 8, 32), "guidance_scale": 4.0, "height": SIDE, "width": SIDE}


@tiny_pipeline("FLUX.2 Klein", assemble("Flux2KleinPipeline", **flux2_parts(guidance_embeds=False)))
def flux2_klein(randn: Randn) -> dict[str, Any]:
    """The base model, with guidance: two calls a step, in contexts "cond" and "uncond"."""
    return flux2(randn) | {"negative_prompt_embeds": -randn(1, 8, 32)}


# Qwen-Image


def qwen_parts(halvings: int) -> dict[str, Any]:
    """Components of every Qwen-Image pipeline; the autoencoder halves the sides so many times."""
    return {
        "transformer": part(
            "QwenImageTransformer2DModel",
            in_channels=16,
            out_channels=4,
            num_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            axes_dims_rope=(4, 6, 6),
        ),
        "vae": part(
            "AutoencoderKLQwenImage",
            base_dim=4,
            z_dim=4,
            dim_mult=[1] * (halvings + 1),
            num_res_blocks=0,
            temperal_downsample=[False] * halvings,
            latents_mean=[0.0] * 4,
            latents_std=[1.0] * 4,
        ),
        "scheduler": flow(
            base_shift=0.5,
            max_shift=0.9,
            base_image_seq_len=256,
            max_image_seq_len=8192,
            shift_terminal=0.02,
            use_dynamic_shifting=True,
        ),
        "without": ONE_ENCODER,
    }


def qwen_prompts(randn: Randn) -> dict[str, Any]:
    """A prompt of 8 tokens and a negative one of 5, with guidance."""
    return {
        "prompt_embeds": randn(1, 8, 32),
        "prompt_embeds_mask": ones(8, 8),
        "negative_prompt_embeds": -randn(1, 5, 32),
        "negative_prompt_embeds_mask": ones(5, 5),
        "true_cfg_scale": 4.0,
    }


@tiny_pipeline("Qwen-Image", assemble("QwenImagePipeline", **qwen_parts(halvings=1)))
def qwen_image(randn: Randn) -> dict[str, Any]:
    """Two calls a step, in contexts "cond" and "uncond"."""
    return qwen_prompts(randn) | {"height": SIDE, "width": SIDE}


# The pipeline scales every input image to a million pixels: 16 tokens after so many halvings.
qwen_edit_parts = qwen_parts(halvings=7)
qwen_edit_parts["without"] += " processor"


@tiny_pipeline("Qwen-Image-Edit", assemble("QwenImageEditPipeline", **qwen_edit_parts))
def qwen_image_edit(randn: Randn) -> dict[str, Any]:
    """Tokens of the input image follow; two calls a step, in contexts "cond" and "uncond"."""
    from PIL import Image

    pixels = (picture(randn)[0].permute(1, 2, 0) * 255).byte().numpy()
    return qwen_prompts(randn) | {"image": Image.fromarray(pixels)}


# Others


@tiny_pipeline(
    "SD3",
    assemble(
        "StableDiffusion3Pipeline",
        transformer=part(
            "SD3Transformer2DModel",
            sample_size=16,
            in_channels=4,
            out_channels=4,
            num_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            caption_projection_dim=32,
            pooled_projection_dim=32,
            pos_embed_max_size=8,
        ),
        vae=autoencoder(shift=0.0609),
        scheduler=flow(shift=3.0),
        without=f"{TWO_ENCODERS} text_encoder_3 tokenizer_3",
    ),
)
def sd3(randn: Randn) -> dict[str, Any]:
    """One call a step, of a batch of two: negative, positive."""
    return {
        "prompt_embeds": randn(1, 8, 32),
        "pooled_prompt_embeds": randn(1, 32),
        "negative_prompt_embeds": -randn(1, 8, 32),
        "negative_pooled_prompt_embeds": -randn(1, 32),
        "guidance_scale": 4.0,
        "height": SIDE,
        "width": SIDE,
    }


@tiny_pipeline(
    "Chroma",
    assemble(
        "ChromaPipeline",
        transformer=part(
            "ChromaTransformer2DModel",
            in_channels=16,
            num_layers=2,
            num_single_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=32,
            axes_dims_rope=(4, 6, 6),
            approximator_num_channels=16,
            approximator_hidden_dim=32,
            approximator_layers=2,
        ),
        vae=autoencoder(shift=0.1159),
        scheduler=flow(),
        without=ONE_ENCODER,
    ),
)
def chroma(randn: Randn) -> dict[str, Any]:
    """Two calls a step without contexts; padding is masked."""
    return {
        "prompt_embeds": randn(1, 8, 32),
        "prompt_attention_mask": ones(7, 8).bool(),
        "negative_prompt_embeds": -randn(1, 8, 32),
        "negative_prompt_attention_mask": ones(3, 8).bool(),
        "guidance_scale": 4.0,
        "height": SIDE,
        "width": SIDE,
    }


def masked_prompts(randn: Randn) -> dict[str, Any]:
    """Two padded prompts of 7 and of 3 tokens, with guidance."""
    return {
        "prompt_embeds": randn(1, 8, 32),
        "prompt_attention_mask": ones(7, 8),
        "negative_prompt": None,
        "negative_prompt_embeds": -randn(1, 8, 32),
        "negative_prompt_attention_mask": ones(3, 8),
        "guidance_scale": 4.0,
        "height": SIDE,
        "width": SIDE,
    }


@tiny_pipeline(
    "PixArt-alpha",
    assemble(
        "PixArtAlphaPipeline",
        transformer=part(
            "PixArtTransformer2DModel",
            sample_size=128,  # which turns the embeddings of size and aspect ratio on
            num_layers=2,
            attention_head_dim=16,
            num_attention_heads=3,
            cross_attention_dim=48,
            caption_channels=32,
        ),
        vae=autoencoder(),
        scheduler=part("DPMSolverMultistepScheduler"),
        without=ONE_ENCODER,
    ),
)
def pixart_alpha(randn: Randn) -> dict[str, Any]:
    """One call a step, of a batch of two: negative, positive."""
    return masked_prompts(randn) | {"use_resolution_binning": False}


@tiny_pipeline(
    "DiT",
    assemble(
        "DiTPipeline",
        transformer=part(
            "DiTTransformer2DModel",
            sample_size=16,
            out_channels=8,
            num_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
        ),
        vae=autoencoder(),
        scheduler=part("DDIMScheduler", clip_sample=False),
    ),
)
def dit(randn: Randn) -> dict[str, Any]:
    """One call a step, of a batch of two: class, no class. The pipeline gives pixels, never latents."""
    return {"class_labels": [int(randn(1).abs() * 100)], "guidance_scale": 4.0, "output_type": "pt"}


@tiny_pipeline(
    "Sana",
    assemble(
        "SanaPipeline",
        transformer=part(
            "SanaTransformer2DModel",
            sample_size=8,
            in_channels=4,
            out_channels=4,
            num_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            cross_attention_head_dim=16,
            num_cross_attention_heads=2,
            cross_attention_dim=32,
            caption_channels=32,
        ),
        vae=part(
            "AutoencoderDC",
            latent_channels=4,
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
        without=ONE_ENCODER,
    ),
)
def sana(randn: Randn) -> dict[str, Any]:
    """One call a step, of a batch of two: negative, positive."""
    return masked_prompts(randn) | {"use_resolution_binning": False}


@tiny_pipeline(
    "Z-Image",
    assemble(
        "ZImagePipeline",
        transformer=part(
            "ZImageTransformer2DModel",
            in_channels=4,
            dim=32,
            n_layers=2,
            n_refiner_layers=2,
            n_heads=2,
            n_kv_heads=2,
            cap_feat_dim=32,
            axes_dims=[4, 6, 6],
            axes_lens=[128, 32, 32],
        ),
        vae=autoencoder(shift=0.1159),
        scheduler=flow(shift=6.0),
        without=ONE_ENCODER,
    ),
)
def z_image(randn: Randn) -> dict[str, Any]:
    """One call a step, of lists of two: positive, negative. Prompts are padded to 64 and to 32 tokens."""
    return {
        "prompt_embeds": [randn(36, 32)],
        "negative_prompt_embeds": [-randn(20, 32)],
        "guidance_scale": 4.0,
        "height": SIDE,
        "width": SIDE,
    }


@tiny_pipeline(
    "Lumina2",
    assemble(
        "Lumina2Pipeline",
        transformer=part(
            "Lumina2Transformer2DModel",
            sample_size=16,
            in_channels=4,
            hidden_size=32,
            num_layers=2,
            num_refiner_layers=2,
            num_attention_heads=2,
            num_kv_heads=1,
            multiple_of=32,
            axes_dim_rope=(4, 6, 6),
            axes_lens=(32, 32, 32),
            cap_feat_dim=32,
        ),
        vae=autoencoder(shift=0.1159),
        scheduler=flow(shift=6.0),
        without=ONE_ENCODER,
    ),
)
def lumina2(randn: Randn) -> dict[str, Any]:
    """Two calls a step without contexts, of sequences of different lengths."""
    # The pipeline takes its autoencoder to shrink sides by 8 whatever autoencoder it has.
    return masked_prompts(randn) | {"height": 4 * SIDE, "width": 4 * SIDE}
