"""FLUX.1 and FLUX.2."""

from typing import Any

import torch

from studies.zoo.base import Kwargs, Randn, tiny_pipeline
from studies.zoo.pipelines.parts import SIDE, SQUARE, autoencoder, flow, network, picture, pooled_prompts, prompts

STRENGTH = 0.6


def flux_parts(**changes: Any) -> Kwargs:
    """Components of every FLUX.1 pipeline."""
    return {
        "transformer": network("FluxTransformer2DModel", guidance_embeds=True, **changes),
        "vae": autoencoder(shift_factor=0.1159),
        "scheduler": flow(shift=3.0, use_dynamic_shifting=True),
    }


def flux2_parts(guidance_embeds: bool) -> Kwargs:
    """Components of every FLUX.2 pipeline."""
    return {
        "transformer": network("Flux2Transformer2DModel", guidance_embeds=guidance_embeds),
        "vae": autoencoder("AutoencoderKLFlux2", layers_per_block=1),
        "scheduler": flow(shift=3.0, use_dynamic_shifting=True),
    }


@tiny_pipeline("FLUX.1", "FluxPipeline", **flux_parts())
def flux(randn: Randn) -> Kwargs:
    """Guidance on top of the distilled one: two calls a step, in contexts "cond" and "uncond"."""
    return prompts(randn) | pooled_prompts(randn) | SQUARE | {"guidance_scale": 3.5, "true_cfg_scale": 4.0}


@tiny_pipeline(
    "FLUX.1 image to image",
    "FluxImg2ImgPipeline",
    runs_steps=lambda steps: steps - int(max(steps - steps * STRENGTH, 0)),
    **flux_parts(),
)
def flux_image_to_image(randn: Randn) -> Kwargs:
    """The schedule's first steps are left out; two calls a step without contexts."""
    return flux(randn) | {"image": picture(randn), "strength": STRENGTH}


@tiny_pipeline("FLUX.1 Kontext", "FluxKontextPipeline", **flux_parts())
def flux_kontext(randn: Randn) -> Kwargs:
    """Tokens of the input image follow those of the image in the making; two calls a step without contexts."""
    return flux(randn) | {"image": picture(randn), "max_area": SIDE * SIDE, "_auto_resize": False}


# Channels of a token: 16 of the latents, 16 of the masked image, 4 pixels of mask for each of 4 latents.
@tiny_pipeline("FLUX.1 Fill", "FluxFillPipeline", **flux_parts(in_channels=16 + 16 + 16, out_channels=16))
def flux_fill(randn: Randn) -> Kwargs:
    """The masked image comes in further channels; one call a step, as guidance is distilled."""
    mask = torch.zeros(1, 1, SIDE, SIDE)
    mask[..., : SIDE // 2] = 1.0
    return SQUARE | {
        "prompt_embeds": randn(1, 8, 32),
        "pooled_prompt_embeds": randn(1, 32),
        "image": picture(randn),
        "mask_image": mask,
        "guidance_scale": 30.0,
    }


@tiny_pipeline("FLUX.2", "Flux2Pipeline", **flux2_parts(guidance_embeds=True))
def flux2(randn: Randn) -> Kwargs:
    """One call a step, as guidance is distilled and nothing else is on offer."""
    return SQUARE | {"prompt_embeds": randn(1, 8, 32), "guidance_scale": 4.0}


@tiny_pipeline("FLUX.2 Klein", "Flux2KleinPipeline", **flux2_parts(guidance_embeds=False))
def flux2_klein(randn: Randn) -> Kwargs:
    """The base model, with guidance: two calls a step, in contexts "cond" and "uncond"."""
    return SQUARE | prompts(randn) | {"guidance_scale": 4.0}
