"""Tiny pipelines of the video models."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn

from hyca_calib.zoo.base import Randn, quiet, randomise, tiny_pipeline

TOKENS = 8
WIDTH = 32
SIZE = {"height": 32, "width": 48}


def _silent(build: Callable[[], Any]) -> Callable[[], Any]:
    """Decorator: import and build without warnings, and show no progress when called."""

    @wraps(build)
    def built() -> Any:
        with quiet():
            pipe = build()
        pipe.set_progress_bar_config(disable=True)
        return pipe

    return built


def _network(kind: Any, seed: int = 0, **config: Any) -> nn.Module:
    """A model of a class of diffusers or transformers, in evaluation mode, without zeros."""
    return randomise(kind(**config).eval(), seed)


def _pipeline(kind: Any, without: tuple[str, ...] = (), **parts: Any) -> Any:
    """A pipeline, the named parts and the first text encoder and its tokenizer left out."""
    return kind(**parts, **dict.fromkeys(("text_encoder", "tokenizer", *without)))


def _prompts(randn: Randn, width: int = WIDTH) -> tuple[Tensor, Tensor]:
    """Embeddings of a prompt and its negative, of one draw: two would begin with the same numbers."""
    both = randn(2, TOKENS, width)
    return both[:1], both[1:]


def _mask(words: int) -> Tensor:
    """Attention mask of a prompt padded at its end."""
    return (torch.arange(TOKENS) < words)[None].long()


def _wan_transformer(kind: Any, seed: int = 0) -> nn.Module:
    return _network(
        kind,
        seed,
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=4,
        text_dim=WIDTH,
        freq_dim=WIDTH,
        ffn_dim=64,
        num_layers=2,
    )


def _wan_vae() -> nn.Module:
    from diffusers import AutoencoderKLWan

    return _network(
        AutoencoderKLWan,
        base_dim=4,
        z_dim=4,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        latents_mean=[0.0] * 4,
        latents_std=[1.0] * 4,
    )


def _wan_scheduler(shift: float) -> Any:
    from diffusers import UniPCMultistepScheduler

    return UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift)


@_silent
def _wan_2_1() -> Any:
    from diffusers import WanPipeline, WanTransformer3DModel

    return _pipeline(
        WanPipeline,
        transformer=_wan_transformer(WanTransformer3DModel),
        vae=_wan_vae(),
        scheduler=_wan_scheduler(3.0),
    )


@_silent
def _wan_2_2() -> Any:
    from diffusers import WanPipeline, WanTransformer3DModel

    return _pipeline(
        WanPipeline,
        transformer=_wan_transformer(WanTransformer3DModel),
        transformer_2=_wan_transformer(WanTransformer3DModel, seed=1),
        boundary_ratio=0.875,
        vae=_wan_vae(),
        scheduler=_wan_scheduler(3.0),
    )


@tiny_pipeline("Wan 2.1", _wan_2_1)
def wan_2_1(randn: Randn) -> dict[str, Any]:
    """Two calls a step, in contexts `cond` and `uncond` that carry the step."""
    prompt, negative = _prompts(randn)
    return {
        **SIZE,
        "num_frames": 9,
        "guidance_scale": 5.0,
        "prompt_embeds": prompt,
        "negative_prompt_embeds": negative,
    }


@tiny_pipeline("Wan 2.2", _wan_2_2)
def wan_2_2(randn: Randn) -> dict[str, Any]:
    """The first transformer runs while the noise is high, the second after it; both in two calls."""
    return {**wan_2_1(randn), "guidance_scale": 4.0, "guidance_scale_2": 3.0}


def _hunyuan_transformer(kind: Any, **config: Any) -> nn.Module:
    return _network(
        kind,
        in_channels=4,
        out_channels=4,
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=2,
        num_single_layers=2,
        num_refiner_layers=2,
        mlp_ratio=2.0,
        text_embed_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        rope_axes_dim=(4, 6, 6),
        **config,
    )


def _hunyuan_vae() -> nn.Module:
    from diffusers import AutoencoderKLHunyuanVideo

    return _network(
        AutoencoderKLHunyuanVideo,
        latent_channels=4,
        block_out_channels=(8, 8, 8, 8),
        layers_per_block=1,
        norm_num_groups=4,
        mid_block_add_attention=False,
    )


@_silent
def _hunyuan() -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, HunyuanVideoPipeline, HunyuanVideoTransformer3DModel

    return _pipeline(
        HunyuanVideoPipeline,
        without=("text_encoder_2", "tokenizer_2"),
        transformer=_hunyuan_transformer(HunyuanVideoTransformer3DModel),
        vae=_hunyuan_vae(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
    )


@tiny_pipeline("HunyuanVideo", _hunyuan)
def hunyuan(randn: Randn) -> dict[str, Any]:
    """Two calls a step; prompts of different length."""
    prompt, negative = _prompts(randn)
    pooled = randn(2, WIDTH)
    return {
        **SIZE,
        "num_frames": 9,
        "true_cfg_scale": 4.0,
        "prompt_embeds": prompt,
        "prompt_attention_mask": _mask(6),
        "pooled_prompt_embeds": pooled[:1],
        "negative_prompt_embeds": negative,
        "negative_prompt_attention_mask": _mask(3),
        "negative_pooled_prompt_embeds": pooled[1:],
    }


@_silent
def _ltx() -> Any:
    from diffusers import (
        AutoencoderKLLTXVideo,
        FlowMatchEulerDiscreteScheduler,
        LTXPipeline,
        LTXVideoTransformer3DModel,
    )

    return _pipeline(
        LTXPipeline,
        transformer=_network(
            LTXVideoTransformer3DModel,
            in_channels=8,
            out_channels=8,
            num_attention_heads=2,
            attention_head_dim=16,
            cross_attention_dim=32,
            num_layers=2,
            caption_channels=WIDTH,
        ),
        vae=_network(
            AutoencoderKLLTXVideo,
            latent_channels=8,
            block_out_channels=(8, 8, 8, 8),
            decoder_block_out_channels=(8, 8, 8, 8),
            layers_per_block=(1, 1, 1, 1, 1),
            decoder_layers_per_block=(1, 1, 1, 1, 1),
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True, base_shift=0.95, max_shift=2.05, base_image_seq_len=1024, shift_terminal=0.1
        ),
    )


@tiny_pipeline("LTX", _ltx)
def ltx(randn: Randn) -> dict[str, Any]:
    """One call a step, on prompt and negative in a batch."""
    prompt, negative = _prompts(randn)
    return {
        "height": 64,
        "width": 96,
        "num_frames": 17,
        "guidance_scale": 3.0,
        "prompt_embeds": prompt,
        "prompt_attention_mask": _mask(6),
        "negative_prompt_embeds": negative,
        "negative_prompt_attention_mask": _mask(3),
    }


@_silent
def _cogvideox() -> Any:
    from diffusers import (
        AutoencoderKLCogVideoX,
        CogVideoXDDIMScheduler,
        CogVideoXPipeline,
        CogVideoXTransformer3DModel,
    )

    return _pipeline(
        CogVideoXPipeline,
        transformer=_network(
            CogVideoXTransformer3DModel,
            num_attention_heads=2,
            attention_head_dim=16,
            in_channels=4,
            out_channels=4,
            time_embed_dim=16,
            text_embed_dim=WIDTH,
            num_layers=2,
            sample_width=6,
            sample_height=4,
            sample_frames=9,
            max_text_seq_length=TOKENS,
            use_rotary_positional_embeddings=True,
        ),
        vae=_network(
            AutoencoderKLCogVideoX,
            latent_channels=4,
            block_out_channels=(8, 8, 8, 8),
            layers_per_block=1,
            norm_num_groups=4,
        ),
        scheduler=CogVideoXDDIMScheduler(
            clip_sample=False,
            prediction_type="v_prediction",
            timestep_spacing="trailing",
            rescale_betas_zero_snr=True,
            snr_shift_scale=1.0,
        ),
    )


@tiny_pipeline("CogVideoX", _cogvideox)
def cogvideox(randn: Randn) -> dict[str, Any]:
    """One call a step, on a batch; the scheduler counts no steps."""
    return {**wan_2_1(randn), "guidance_scale": 6.0}


@_silent
def _mochi() -> Any:
    from diffusers import AutoencoderKLMochi, FlowMatchEulerDiscreteScheduler, MochiPipeline, MochiTransformer3DModel

    return _pipeline(
        MochiPipeline,
        transformer=_network(
            MochiTransformer3DModel,
            num_attention_heads=2,
            attention_head_dim=16,
            num_layers=2,
            pooled_projection_dim=16,
            in_channels=4,
            text_embed_dim=WIDTH,
            time_embed_dim=16,
            max_sequence_length=TOKENS,
        ),
        vae=_network(
            AutoencoderKLMochi,
            latent_channels=4,
            encoder_block_out_channels=(32, 32, 32, 32),
            decoder_block_out_channels=(32, 32, 32, 32),
            layers_per_block=(1, 1, 1, 1, 1),
            add_attention_block=(False, False, False, False, False),
            latents_mean=(0.0,) * 4,
            latents_std=(1.0,) * 4,
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(invert_sigmas=True),
    )


@tiny_pipeline("Mochi", _mochi)
def mochi(randn: Randn) -> dict[str, Any]:
    """One call a step, on a batch; the timestep rises."""
    prompt, negative = _prompts(randn)
    return {
        **SIZE,
        "num_frames": 13,
        "guidance_scale": 4.5,
        "prompt_embeds": prompt,
        "prompt_attention_mask": _mask(6).bool(),
        "negative_prompt_embeds": negative,
        "negative_prompt_attention_mask": _mask(3).bool(),
    }


@_silent
def _framepack() -> Any:
    from diffusers import (
        FlowMatchEulerDiscreteScheduler,
        HunyuanVideoFramepackPipeline,
        HunyuanVideoFramepackTransformer3DModel,
    )
    from transformers import SiglipImageProcessor, SiglipVisionConfig, SiglipVisionModel

    sight = SiglipVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=8
    )
    return _pipeline(
        HunyuanVideoFramepackPipeline,
        without=("text_encoder_2", "tokenizer_2"),
        transformer=_hunyuan_transformer(
            HunyuanVideoFramepackTransformer3DModel, has_image_proj=True, image_proj_dim=16, has_clean_x_embedder=True
        ),
        vae=_hunyuan_vae(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
        image_encoder=_network(SiglipVisionModel, config=sight),
        feature_extractor=SiglipImageProcessor(size={"height": 16, "width": 16}),
    )


@tiny_pipeline("HunyuanVideo Framepack", _framepack, runs_steps=lambda steps: 2 * steps)
def framepack(randn: Randn) -> dict[str, Any]:
    """Two sections of five frames. Decoded: latents would come as a list, one tensor a section."""
    return {
        **hunyuan(randn),
        "image": randn(1, 3, 32, 48).sigmoid(),
        "num_frames": 9,
        "latent_window_size": 2,
        "output_type": "pt",
    }


@_silent
def _allegro() -> Any:
    from diffusers import (
        AllegroPipeline,
        AllegroTransformer3DModel,
        AutoencoderKLAllegro,
        EulerAncestralDiscreteScheduler,
    )

    return _pipeline(
        AllegroPipeline,
        transformer=_network(
            AllegroTransformer3DModel,
            num_attention_heads=2,
            attention_head_dim=24,
            num_layers=2,
            cross_attention_dim=48,
            sample_height=4,
            sample_width=6,
            sample_frames=2,
            caption_channels=WIDTH,
        ),
        vae=_network(AutoencoderKLAllegro, block_out_channels=(8, 8, 8, 8), layers_per_block=1, norm_num_groups=4),
        scheduler=EulerAncestralDiscreteScheduler(),
    )


@tiny_pipeline("Allegro", _allegro)
def allegro(randn: Randn) -> dict[str, Any]:
    """One call a step, on a batch, without a context; the scheduler adds noise."""
    prompt, negative = _prompts(randn)
    return {
        **SIZE,
        "num_frames": 8,
        "guidance_scale": 7.5,
        "prompt_embeds": prompt,
        "prompt_attention_mask": _mask(6),
        "negative_prompt": None,
        "negative_prompt_embeds": negative,
        "negative_prompt_attention_mask": _mask(3),
    }


@_silent
def _ltx_2() -> Any:
    from diffusers import (
        AutoencoderKLLTX2Audio,
        AutoencoderKLLTX2Video,
        FlowMatchEulerDiscreteScheduler,
        LTX2Pipeline,
        LTX2VideoTransformer3DModel,
    )
    from diffusers.pipelines.ltx2 import LTX2TextConnectors, LTX2Vocoder

    return _pipeline(
        LTX2Pipeline,
        transformer=_network(
            LTX2VideoTransformer3DModel,
            in_channels=8,
            out_channels=8,
            num_attention_heads=2,
            attention_head_dim=16,
            cross_attention_dim=32,
            audio_in_channels=8,
            audio_out_channels=8,
            audio_num_attention_heads=2,
            audio_attention_head_dim=8,
            audio_cross_attention_dim=16,
            num_layers=2,
            caption_channels=16,
            perturbed_attn=True,
        ),
        connectors=_network(
            LTX2TextConnectors,
            caption_channels=16,
            text_proj_in_factor=2,
            video_connector_num_attention_heads=2,
            video_connector_attention_head_dim=8,
            video_connector_num_layers=1,
            video_connector_num_learnable_registers=4,
            audio_connector_num_attention_heads=2,
            audio_connector_attention_head_dim=8,
            audio_connector_num_layers=1,
            audio_connector_num_learnable_registers=4,
        ),
        vae=_network(
            AutoencoderKLLTX2Video,
            latent_channels=8,
            block_out_channels=(8, 8, 8, 8),
            decoder_block_out_channels=(8, 8, 8),
            layers_per_block=(1, 1, 1, 1, 1),
            decoder_layers_per_block=(1, 1, 1, 1),
            spatial_compression_ratio=32,
            temporal_compression_ratio=8,
        ),
        audio_vae=_network(
            AutoencoderKLLTX2Audio,
            base_channels=8,
            ch_mult=(1, 1, 1),
            num_res_blocks=1,
            resolution=16,
            latent_channels=2,
            mel_bins=16,
        ),
        vocoder=_network(
            LTX2Vocoder,
            in_channels=32,
            hidden_channels=8,
            upsample_kernel_sizes=[4, 4],
            upsample_factors=[2, 2],
            resnet_kernel_sizes=[3],
            resnet_dilations=[[1, 3]],
        ),
        scheduler=FlowMatchEulerDiscreteScheduler(
            use_dynamic_shifting=True, base_shift=0.95, max_shift=2.05, base_image_seq_len=1024, shift_terminal=0.1
        ),
    )


@tiny_pipeline("LTX-2", _ltx_2)
def ltx_2(randn: Randn) -> dict[str, Any]:
    """With the pipeline's own guidance: of the text, by perturbed attention, and between modalities."""
    return {**ltx(randn), "spatio_temporal_guidance_blocks": [1]}


@_silent
def _skyreels_v2() -> Any:
    from diffusers import SkyReelsV2Pipeline, SkyReelsV2Transformer3DModel

    return _pipeline(
        SkyReelsV2Pipeline,
        transformer=_wan_transformer(SkyReelsV2Transformer3DModel),
        vae=_wan_vae(),
        scheduler=_wan_scheduler(8.0),
    )


@tiny_pipeline("SkyReels V2", _skyreels_v2)
def skyreels_v2(randn: Randn) -> dict[str, Any]:
    """Two calls a step, in contexts `cond` and `uncond`."""
    return {**wan_2_1(randn), "guidance_scale": 6.0}


@_silent
def _kandinsky_5() -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler, Kandinsky5T2VPipeline, Kandinsky5Transformer3DModel

    return _pipeline(
        Kandinsky5T2VPipeline,
        without=("text_encoder_2", "tokenizer_2"),
        transformer=_network(
            Kandinsky5Transformer3DModel,
            in_visual_dim=4,
            in_text_dim=WIDTH,
            in_text_dim2=WIDTH,
            time_dim=WIDTH,
            out_visual_dim=4,
            model_dim=32,
            ff_dim=64,
            num_text_blocks=2,
            num_visual_blocks=2,
            axes_dims=(4, 6, 6),
            visual_cond=True,
        ),
        vae=_hunyuan_vae(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=5.0),
    )


@tiny_pipeline("Kandinsky 5", _kandinsky_5)
def kandinsky_5(randn: Randn) -> dict[str, Any]:
    """Two calls a step, without a context; the latents are one tensor, overwritten at each step."""
    prompt, negative = _prompts(randn)
    pooled = randn(2, WIDTH)
    return {
        **SIZE,
        "num_frames": 9,
        "guidance_scale": 5.0,
        "prompt_embeds_qwen": prompt,
        "prompt_embeds_clip": pooled[:1],
        "prompt_cu_seqlens": torch.tensor([0, TOKENS], dtype=torch.int32),
        "negative_prompt_embeds_qwen": negative,
        "negative_prompt_embeds_clip": pooled[1:],
        "negative_prompt_cu_seqlens": torch.tensor([0, TOKENS], dtype=torch.int32),
    }
