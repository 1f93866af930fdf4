"""Wan, HunyuanVideo, LTX, CogVideoX and Mochi."""

import torch

from studies.zoo.base import Kwargs, Part, Randn, tiny_pipeline
from studies.zoo.pipelines.parts import flow, masked_prompts, network, part, pooled_prompts, prompts

WIDE: Kwargs = {"height": 32, "width": 48, "num_frames": 9}
EIGHTS = (8, 8, 8, 8)
ONES = (1, 1, 1, 1, 1)

WAN_VAE = part(
    "AutoencoderKLWan",
    base_dim=4,
    z_dim=4,
    dim_mult=[1, 1, 1, 1],
    num_res_blocks=1,
    latents_mean=[0.0] * 4,
    latents_std=[1.0] * 4,
)
HUNYUAN_VAE = part(
    "AutoencoderKLHunyuanVideo",
    latent_channels=4,
    block_out_channels=EIGHTS,
    layers_per_block=1,
    norm_num_groups=4,
    mid_block_add_attention=False,
)
LTX_FLOW = flow(use_dynamic_shifting=True, base_shift=0.95, max_shift=2.05, base_image_seq_len=1024, shift_terminal=0.1)


def wan_flow(shift: float) -> Part:
    """The scheduler of Wan and SkyReels."""
    return part("UniPCMultistepScheduler", prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift)


@tiny_pipeline(
    "Wan 2.1",
    "WanPipeline",
    transformer=network("WanTransformer3DModel"),
    vae=WAN_VAE,
    scheduler=wan_flow(3.0),
)
def wan_2_1(randn: Randn) -> Kwargs:
    """Two calls a step, in contexts `cond` and `uncond` that carry the step."""
    return prompts(randn) | WIDE | {"guidance_scale": 5.0}


@tiny_pipeline(
    "Wan 2.2",
    "WanPipeline",
    transformer=network("WanTransformer3DModel"),
    transformer_2=network("WanTransformer3DModel", seed=1),
    boundary_ratio=lambda: 0.875,
    vae=WAN_VAE,
    scheduler=wan_flow(3.0),
)
def wan_2_2(randn: Randn) -> Kwargs:
    """The first transformer runs while the noise is high, the second after it; both in two calls."""
    return prompts(randn) | WIDE | {"guidance_scale": 4.0, "guidance_scale_2": 3.0}


@tiny_pipeline(
    "HunyuanVideo",
    "HunyuanVideoPipeline",
    transformer=network("HunyuanVideoTransformer3DModel"),
    vae=HUNYUAN_VAE,
    scheduler=flow(shift=7.0),
)
def hunyuan(randn: Randn) -> Kwargs:
    """Two calls a step; prompts of different length."""
    return masked_prompts(randn) | pooled_prompts(randn) | WIDE | {"true_cfg_scale": 4.0}


@tiny_pipeline(
    "LTX",
    "LTXPipeline",
    transformer=network("LTXVideoTransformer3DModel"),
    vae=part(
        "AutoencoderKLLTXVideo",
        latent_channels=8,
        block_out_channels=EIGHTS,
        decoder_block_out_channels=EIGHTS,
        layers_per_block=ONES,
        decoder_layers_per_block=ONES,
    ),
    scheduler=LTX_FLOW,
)
def ltx(randn: Randn) -> Kwargs:
    """One call a step, on prompt and negative in a batch."""
    return masked_prompts(randn) | {"height": 64, "width": 96, "num_frames": 17, "guidance_scale": 3.0}


@tiny_pipeline(
    "CogVideoX",
    "CogVideoXPipeline",
    transformer=network("CogVideoXTransformer3DModel"),
    vae=part(
        "AutoencoderKLCogVideoX", latent_channels=4, block_out_channels=EIGHTS, layers_per_block=1, norm_num_groups=4
    ),
    scheduler=part(
        "CogVideoXDDIMScheduler",
        clip_sample=False,
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        rescale_betas_zero_snr=True,
        snr_shift_scale=1.0,
    ),
)
def cogvideox(randn: Randn) -> Kwargs:
    """One call a step, on a batch; the scheduler counts no steps."""
    return prompts(randn) | WIDE | {"guidance_scale": 6.0}


@tiny_pipeline(
    "Mochi",
    "MochiPipeline",
    transformer=network("MochiTransformer3DModel"),
    vae=part(
        "AutoencoderKLMochi",
        latent_channels=4,
        encoder_block_out_channels=(32, 32, 32, 32),
        decoder_block_out_channels=(32, 32, 32, 32),
        layers_per_block=ONES,
        add_attention_block=(False,) * 5,
        latents_mean=(0.0,) * 4,
        latents_std=(1.0,) * 4,
    ),
    scheduler=flow(invert_sigmas=True),
)
def mochi(randn: Randn) -> Kwargs:
    """One call a step, on a batch; the timestep rises."""
    return masked_prompts(randn, torch.bool) | WIDE | {"num_frames": 13, "guidance_scale": 4.5}
