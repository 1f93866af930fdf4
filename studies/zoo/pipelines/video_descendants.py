"""Descendants of Wan, HunyuanVideo and LTX, and pipelines that share parts with them."""

import torch
from torch import nn

from studies.zoo.base import Kwargs, Randn, tiny_pipeline
from studies.zoo.pipelines.parts import flow, masked_prompts, network, part, prompts, random_weights
from studies.zoo.pipelines.video import EIGHTS, HUNYUAN_VAE, LTX_FLOW, ONES, WAN_VAE, WIDE, hunyuan, ltx, wan_flow


def sight() -> nn.Module:
    """The image encoder of Framepack."""
    from transformers import SiglipVisionConfig, SiglipVisionModel

    config = SiglipVisionConfig(
        hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=8
    )
    return random_weights(SiglipVisionModel, config=config)


def image_processor() -> object:
    """What makes the input of `sight`."""
    from transformers import SiglipImageProcessor

    return SiglipImageProcessor(size={"height": 16, "width": 16})


@tiny_pipeline(
    "HunyuanVideo Framepack",
    "HunyuanVideoFramepackPipeline",
    runs_steps=lambda steps: 2 * steps,
    transformer=network("HunyuanVideoFramepackTransformer3DModel"),
    vae=HUNYUAN_VAE,
    scheduler=flow(shift=7.0),
    image_encoder=sight,
    feature_extractor=image_processor,
)
def framepack(randn: Randn) -> Kwargs:
    """Two sections of five frames. Decoded: latents would come as a list, one tensor a section."""
    image = randn(1, 3, 32, 48).sigmoid()
    return hunyuan(randn) | {"image": image, "latent_window_size": 2, "output_type": "pt"}


@tiny_pipeline(
    "Allegro",
    "AllegroPipeline",
    transformer=network("AllegroTransformer3DModel"),
    vae=part("AutoencoderKLAllegro", block_out_channels=EIGHTS, layers_per_block=1, norm_num_groups=4),
    scheduler=part("EulerAncestralDiscreteScheduler"),
)
def allegro(randn: Randn) -> Kwargs:
    """One call a step, on a batch, without a context; the scheduler adds noise."""
    return masked_prompts(randn) | WIDE | {"num_frames": 8, "negative_prompt": None, "guidance_scale": 7.5}


def connectors() -> nn.Module:
    """From the text encoder of LTX-2 to its transformer."""
    from diffusers.pipelines.ltx2 import LTX2TextConnectors

    return random_weights(
        LTX2TextConnectors,
        caption_channels=32,
        text_proj_in_factor=1,
        video_connector_num_attention_heads=2,
        video_connector_attention_head_dim=16,
        video_connector_num_layers=1,
        video_connector_num_learnable_registers=4,
        audio_connector_num_attention_heads=2,
        audio_connector_attention_head_dim=16,
        audio_connector_num_layers=1,
        audio_connector_num_learnable_registers=4,
    )


def vocoder() -> nn.Module:
    """From the audio latents of LTX-2 to sound."""
    from diffusers.pipelines.ltx2 import LTX2Vocoder

    return random_weights(
        LTX2Vocoder,
        in_channels=32,
        hidden_channels=8,
        upsample_kernel_sizes=[4, 4],
        upsample_factors=[2, 2],
        resnet_kernel_sizes=[3],
        resnet_dilations=[[1, 3]],
    )


@tiny_pipeline(
    "LTX-2",
    "LTX2Pipeline",
    transformer=network("LTX2VideoTransformer3DModel", perturbed_attn=True),
    connectors=connectors,
    vae=part(
        "AutoencoderKLLTX2Video",
        latent_channels=8,
        block_out_channels=EIGHTS,
        decoder_block_out_channels=EIGHTS[:3],
        layers_per_block=ONES,
        decoder_layers_per_block=ONES[:4],
        spatial_compression_ratio=32,
        temporal_compression_ratio=8,
    ),
    audio_vae=part(
        "AutoencoderKLLTX2Audio",
        base_channels=8,
        ch_mult=(1, 1, 1),
        num_res_blocks=1,
        resolution=16,
        latent_channels=2,
        mel_bins=16,
    ),
    vocoder=vocoder,
    scheduler=LTX_FLOW,
)
def ltx_2(randn: Randn) -> Kwargs:
    """With the pipeline's own guidance: of the text, by perturbed attention, and between modalities."""
    return ltx(randn) | {"spatio_temporal_guidance_blocks": [1]}


@tiny_pipeline(
    "SkyReels V2",
    "SkyReelsV2Pipeline",
    transformer=network("SkyReelsV2Transformer3DModel"),
    vae=WAN_VAE,
    scheduler=wan_flow(8.0),
)
def skyreels_v2(randn: Randn) -> Kwargs:
    """Two calls a step, in contexts `cond` and `uncond`."""
    return prompts(randn) | WIDE | {"guidance_scale": 6.0}


@tiny_pipeline(
    "Kandinsky 5",
    "Kandinsky5T2VPipeline",
    transformer=network("Kandinsky5Transformer3DModel", visual_cond=True),
    vae=HUNYUAN_VAE,
    scheduler=flow(shift=5.0),
)
def kandinsky_5(randn: Randn) -> Kwargs:
    """Two calls a step, without a context; the latents are one tensor, overwritten at each step."""
    tokens = torch.tensor([0, 8], dtype=torch.int32)
    return WIDE | {
        "guidance_scale": 5.0,
        "prompt_embeds_qwen": randn(1, 8, 32),
        "prompt_embeds_clip": randn(1, 32),
        "prompt_cu_seqlens": tokens,
        "negative_prompt_embeds_qwen": randn(1, 8, 32),
        "negative_prompt_embeds_clip": randn(1, 32),
        "negative_prompt_cu_seqlens": tokens,
    }
