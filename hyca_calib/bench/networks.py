"""Networks of published sizes with random weights, and the calls their pipelines make: for timing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from hyca_calib.pipelines.classes import find_class, quiet
from hyca_runtime.attach.points import find_blocks

__all__ = ["NETWORKS", "Network"]

Inputs = Callable[[nn.Module, str, torch.dtype], dict[str, Any]]


@dataclass(frozen=True)
class Network:
    """A configuration to be timed.

    Attributes:
        name: as on the command line.
        kind: class of diffusers.
        config: what differs from the class's defaults, which are the released model's.
        inputs: keyword arguments of a call, timestep included.
        unit: scheduler timesteps over the network's.
    """

    name: str
    kind: str
    config: dict[str, Any]
    inputs: Inputs
    unit: float

    def build(self, device: str, dtype: torch.dtype) -> nn.Module:
        """The network with normal weights of standard deviation 0.02, made on the device in its dtype."""
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            with torch.device(device), quiet():
                module: nn.Module = find_class(self.kind)(**self.config).eval().requires_grad_(False)
        finally:
            torch.set_default_dtype(before)
        for parameter in module.parameters():
            parameter.normal_(std=0.02)
        return module

    def channels(self, module: nn.Module) -> int:
        """Width of the trunk."""
        config: Any = module.config
        return int(config["num_attention_heads"] * config["attention_head_dim"])

    def blocks(self, module: nn.Module) -> int:
        """Number of transformer blocks."""
        return len(find_blocks(module))


def _flux(image: int, text: int) -> Inputs:
    def inputs(module: nn.Module, device: str, dtype: torch.dtype) -> dict[str, Any]:
        config: Any = module.config
        side = int(image**0.5)
        ids = torch.zeros(image, 3, device=device)
        ids[:, 1] = torch.arange(image, device=device) // side
        ids[:, 2] = torch.arange(image, device=device) % side
        given = {
            "hidden_states": torch.randn(1, image, config["in_channels"], device=device, dtype=dtype),
            "encoder_hidden_states": torch.randn(1, text, config["joint_attention_dim"], device=device, dtype=dtype),
            "pooled_projections": torch.randn(1, config["pooled_projection_dim"], device=device, dtype=dtype),
            "timestep": torch.ones(1, device=device, dtype=dtype),
            "img_ids": ids,
            "txt_ids": torch.zeros(text, 3, device=device),
            "return_dict": False,
        }
        if config["guidance_embeds"]:
            given["guidance"] = torch.full((1,), 3.5, device=device)
        return given

    return inputs


def _qwen(side: int, text: int) -> Inputs:
    def inputs(module: nn.Module, device: str, dtype: torch.dtype) -> dict[str, Any]:
        config: Any = module.config
        return {
            "hidden_states": torch.randn(1, side * side, config["in_channels"], device=device, dtype=dtype),
            "encoder_hidden_states": torch.randn(1, text, config["joint_attention_dim"], device=device, dtype=dtype),
            "encoder_hidden_states_mask": torch.ones(1, text, device=device, dtype=torch.long),
            "timestep": torch.ones(1, device=device, dtype=dtype),
            "img_shapes": [[(1, side, side)]],
            "return_dict": False,
        }

    return inputs


def _hunyuan(frames: int, height: int, width: int, text: int) -> Inputs:
    def inputs(module: nn.Module, device: str, dtype: torch.dtype) -> dict[str, Any]:
        config: Any = module.config
        given = {
            "hidden_states": torch.randn(1, config["in_channels"], frames, height, width, device=device, dtype=dtype),
            "encoder_hidden_states": torch.randn(1, text, config["text_embed_dim"], device=device, dtype=dtype),
            "encoder_attention_mask": torch.ones(1, text, device=device, dtype=torch.bool),
            "pooled_projections": torch.randn(1, config["pooled_projection_dim"], device=device, dtype=dtype),
            "timestep": torch.ones(1, device=device, dtype=dtype),
            "return_dict": False,
        }
        if config["guidance_embeds"]:
            given["guidance"] = torch.full((1,), 6000.0, device=device)
        return given

    return inputs


FLUX = "FluxTransformer2DModel"
QWEN = "QwenImageTransformer2DModel"
HUNYUAN = "HunyuanVideoTransformer3DModel"
TINY = {"attention_head_dim": 16, "num_attention_heads": 2}

NETWORKS = {
    network.name: network
    for network in (
        Network("flux-dev", FLUX, {"guidance_embeds": True}, _flux(4096, 512), 1000),
        Network("qwen-image", QWEN, {}, _qwen(64, 128), 1000),
        Network("hunyuan-video", HUNYUAN, {"guidance_embeds": True}, _hunyuan(16, 60, 104, 256), 1),
        Network(
            "flux-100m",
            FLUX,
            {"num_layers": 2, "num_single_layers": 6, "attention_head_dim": 64, "num_attention_heads": 12}
            | {"axes_dims_rope": (8, 28, 28)},
            _flux(1024, 512),
            1000,
        ),
        Network(
            "flux-57-tiny",
            FLUX,
            TINY | {"axes_dims_rope": (4, 6, 6), "joint_attention_dim": 32, "pooled_projection_dim": 32},
            _flux(16, 8),
            1000,
        ),
        Network(
            "qwen-tiny",
            QWEN,
            TINY | {"num_layers": 4, "axes_dims_rope": (4, 6, 6), "joint_attention_dim": 32},
            _qwen(4, 8),
            1000,
        ),
        Network(
            "hunyuan-tiny",
            HUNYUAN,
            TINY
            | {"num_layers": 2, "num_single_layers": 2, "num_refiner_layers": 1, "rope_axes_dim": (4, 6, 6)}
            | {"text_embed_dim": 32, "pooled_projection_dim": 32, "guidance_embeds": True},
            _hunyuan(3, 4, 4, 8),
            1,
        ),
    )
}
"""The three of the paper in full size, a FLUX that fits a CPU, and tiny ones for tests."""
