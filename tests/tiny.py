"""Small untrained models: every mechanism is the real one, only the weights are random."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from diffusers import (
    DDIMScheduler,
    DiTTransformer2DModel,
    FlowMatchEulerDiscreteScheduler,
    FluxTransformer2DModel,
    SkyReelsV2Transformer3DModel,
    WanTransformer3DModel,
)
from torch import Tensor

from hyca_calib.demo import weights_of
from hyca_calib.demo.emoji.pipeline import EmojiPipeline
from hyca_calib.demo.emoji.text import WordEncoder
from hyca_calib.demo.glyphs.pipeline import GlyphPipeline
from hyca_calib.demo.motion.codec import BlockCodec
from hyca_calib.demo.motion.pipeline import MotionPipeline
from hyca_calib.demo.stream.pipeline import StreamPipeline

WORDS = ["blue", "cat", "dog", "green", "heart", "red", "square", "star"]


def pipeline(seed: int = 0, heads: int = 2, blocks: int = 2) -> EmojiPipeline:
    """A FLUX of two blocks of both kinds on 16 x 16 pixels; also usable as ``--model tiny:pipeline``."""
    torch.manual_seed(seed)
    transformer = FluxTransformer2DModel(
        in_channels=48,
        num_layers=blocks,
        num_single_layers=blocks,
        attention_head_dim=16,
        num_attention_heads=heads,
        joint_attention_dim=24,
        pooled_projection_dim=24,
        axes_dims_rope=(4, 6, 6),
    ).eval()
    encoder = WordEncoder(vocabulary=WORDS, dim=24)
    pipe = EmojiPipeline(transformer, encoder, FlowMatchEulerDiscreteScheduler(), image_size=16)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def glyphs(channels: int = 3) -> GlyphPipeline:
    """A DiT of three blocks on 16 x 16 pixels; classes, guidance in one call."""
    torch.manual_seed(0)
    transformer = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=channels,
        num_layers=3,
        sample_size=16,
        patch_size=4,
        num_embeds_ada_norm=36,
    ).eval()
    pipe = GlyphPipeline(transformer, DDIMScheduler.from_pretrained(weights_of("demo-class") / "scheduler"))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def motion() -> MotionPipeline:
    """A Wan of three blocks on clips of 8 frames of 16 x 16 pixels, with random weights."""
    torch.manual_seed(0)
    transformer = WanTransformer3DModel(
        patch_size=(1, 1, 1),
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=8,
        out_channels=8,
        text_dim=24,
        freq_dim=32,
        ffn_dim=64,
        num_layers=3,
    ).eval()
    encoder, codec = WordEncoder(vocabulary=WORDS, dim=24), BlockCodec(latent_channels=8)
    pipe = MotionPipeline(transformer, encoder, codec, FlowMatchEulerDiscreteScheduler(shift=3.0), 8, 16)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def stream() -> StreamPipeline:
    """A SkyReels-V2 of two blocks for clips of 4 chunks of 3 latent frames, of 16 x 16 pixels, with random weights."""
    torch.manual_seed(0)
    transformer = SkyReelsV2Transformer3DModel(
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=8,
        out_channels=8,
        text_dim=24,
        freq_dim=32,
        ffn_dim=48,
        num_layers=2,
        num_frame_per_block=3,
    ).eval()
    encoder, codec = WordEncoder(vocabulary=WORDS, dim=24), BlockCodec(frames=2, latent_channels=8)
    pipe = StreamPipeline(transformer, encoder, codec, FlowMatchEulerDiscreteScheduler(shift=3.0), 24, 16)
    pipe.set_progress_bar_config(disable=True)
    return pipe


class InInferenceMode(EmojiPipeline):
    """As users decorate the call of their own pipelines."""

    @torch.inference_mode()
    def __call__(self, *args: Any, **options: Any) -> Any:
        return inspect.unwrap(EmojiPipeline.__call__)(self, *args, **options)


class TimeSeries(EmojiPipeline):
    """Samples are no pictures: ``(batch, 16, 48)``, in hundreds."""

    def decode(self, latents: Tensor, output_type: str, rows: int | None = None) -> Any:
        del output_type, rows
        return 100 * latents


class WithoutOutputType(EmojiPipeline):
    """Of the arguments that every call is given, one is not known."""

    def __call__(self, prompt: str, num_inference_steps: int, generator: Any, return_dict: bool) -> Any:  # type: ignore[override]
        return super().__call__(prompt, None, None, num_inference_steps, 1.0, generator, return_dict=return_dict)


def as_kind(kind: type[EmojiPipeline]) -> EmojiPipeline:
    """The pipeline above as one of another class."""
    pipe = pipeline()
    pipe.__class__ = kind
    return pipe


def series() -> EmojiPipeline:
    return as_kind(TimeSeries)


def without_output_type() -> EmojiPipeline:
    return as_kind(WithoutOutputType)


def broken() -> EmojiPipeline:
    raise KeyError("no weights here")


def prompts() -> tuple[dict[str, str], ...]:
    return tuple({"prompt": f"{a} {b}"} for a in WORDS[:4] for b in WORDS[4:])
