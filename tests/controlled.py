"""Tiny pipelines of diffusers with a ControlNet."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from studies.zoo import MODELS, PIPELINES
from studies.zoo.base import Kwargs, Part, Randn, TinyPipeline, randomise
from studies.zoo.check import STEPS
from studies.zoo.pipelines.parts import picture


def control(kind: str, like: str, **config: Any) -> Part:
    """A ControlNet for the network `like` of the zoo."""

    def make() -> nn.Module:
        import diffusers

        cls = getattr(diffusers, kind)
        known = {**MODELS[like].config, **config}
        return randomise(cls(**{k: v for k, v in known.items() if k in inspect.signature(cls).parameters}).eval(), 1)

    return make


def with_control(name: str, kind: str, controlnet: Part) -> TinyPipeline:
    plain = PIPELINES[name]

    def arguments(randn: Randn) -> Kwargs:
        return {**plain.arguments(randn), "control_image": picture(randn), "controlnet_conditioning_scale": 0.7}

    return TinyPipeline(name, kind, {**plain.parts, "controlnet": controlnet}, arguments)


ALL = {
    "two calls a step": with_control(
        "FLUX.1",
        "FluxControlNetPipeline",
        control("FluxControlNetModel", "FluxTransformer2DModel", guidance_embeds=True),
    ),
    "guidance in one call": with_control(
        "SD3",
        "StableDiffusion3ControlNetPipeline",
        control("SD3ControlNetModel", "SD3Transformer2DModel", dual_attention_layers=(), qk_norm=None),
    ),
}
FLUX = "two calls a step"


def draw(name: str, pipe: Any) -> Tensor:
    """Final latents of one sample."""
    torch.manual_seed(0)  # SD3 takes a sample of its picture's latents
    return ALL[name].call(pipe, STEPS)
