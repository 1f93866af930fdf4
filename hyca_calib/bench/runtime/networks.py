"""Networks of published sizes with random weights, and the calls that their pipelines make: for timing."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from hyca_calib.pipelines.classes import find_class, quiet
from hyca_runtime.errors import WorkloadError

Inputs = Callable[[nn.Module, str, torch.dtype], dict[str, Any]]


@dataclass(frozen=True)
class Network:
    """A configuration to be timed.

    Attributes:
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
        """The width of the trunk."""
        config = _config(module)
        return int(config["num_attention_heads"] * config["attention_head_dim"])


def _flux(module: nn.Module, device: str, dtype: torch.dtype, *, image: int, text: int) -> dict[str, Any]:
    config, noise = _config(module), partial(torch.randn, device=device, dtype=dtype)
    side = int(image**0.5)
    ids = torch.zeros(image, 3, device=device)
    ids[:, 1] = torch.arange(image, device=device) // side
    ids[:, 2] = torch.arange(image, device=device) % side
    given = {
        "hidden_states": noise(1, image, config["in_channels"]),
        "encoder_hidden_states": noise(1, text, config["joint_attention_dim"]),
        "pooled_projections": noise(1, config["pooled_projection_dim"]),
        "timestep": torch.ones(1, device=device, dtype=dtype),
        "img_ids": ids,
        "txt_ids": torch.zeros(text, 3, device=device),
        "return_dict": False,
    }
    if config["guidance_embeds"]:
        given["guidance"] = torch.full((1,), 3.5, device=device)
    return given


def _qwen(module: nn.Module, device: str, dtype: torch.dtype, *, side: int, text: int) -> dict[str, Any]:
    config, noise = _config(module), partial(torch.randn, device=device, dtype=dtype)
    return {
        "hidden_states": noise(1, side * side, config["in_channels"]),
        "encoder_hidden_states": noise(1, text, config["joint_attention_dim"]),
        "encoder_hidden_states_mask": torch.ones(1, text, device=device, dtype=torch.long),
        "timestep": torch.ones(1, device=device, dtype=dtype),
        "img_shapes": [[(1, side, side)]],
        "return_dict": False,
    }


def _hunyuan(
    module: nn.Module, device: str, dtype: torch.dtype, *, video: tuple[int, int, int], text: int
) -> dict[str, Any]:
    config, noise = _config(module), partial(torch.randn, device=device, dtype=dtype)
    given = {
        "hidden_states": noise(1, config["in_channels"], *video),
        "encoder_hidden_states": noise(1, text, config["text_embed_dim"]),
        "encoder_attention_mask": torch.ones(1, text, device=device, dtype=torch.bool),
        "pooled_projections": noise(1, config["pooled_projection_dim"]),
        "timestep": torch.ones(1, device=device, dtype=dtype),
        "return_dict": False,
    }
    if config["guidance_embeds"]:
        given["guidance"] = torch.full((1,), 6000.0, device=device)
    return given


def _config(module: nn.Module) -> Mapping[str, Any]:
    config: Any = module.config
    return dict(config)


FLUX = "FluxTransformer2DModel"
QWEN = "QwenImageTransformer2DModel"
HUNYUAN = "HunyuanVideoTransformer3DModel"
TINY = {"attention_head_dim": 16, "num_attention_heads": 2}

NETWORKS = {
    network.name: network
    for network in (
        Network("flux-dev", FLUX, {"guidance_embeds": True}, partial(_flux, image=4096, text=512), 1000),
        Network("qwen-image", QWEN, {}, partial(_qwen, side=64, text=128), 1000),
        Network(
            "hunyuan-video", HUNYUAN, {"guidance_embeds": True}, partial(_hunyuan, video=(16, 60, 104), text=256), 1
        ),
        Network(
            "flux-100m",
            FLUX,
            {"num_layers": 2, "num_single_layers": 6, "attention_head_dim": 64, "num_attention_heads": 12}
            | {"axes_dims_rope": (8, 28, 28)},
            partial(_flux, image=1024, text=512),
            1000,
        ),
        Network(
            "flux-57-tiny",
            FLUX,
            TINY | {"axes_dims_rope": (4, 6, 6), "joint_attention_dim": 32, "pooled_projection_dim": 32},
            partial(_flux, image=16, text=8),
            1000,
        ),
        Network(
            "qwen-tiny",
            QWEN,
            TINY | {"num_layers": 4, "axes_dims_rope": (4, 6, 6), "joint_attention_dim": 32},
            partial(_qwen, side=4, text=8),
            1000,
        ),
        Network(
            "hunyuan-tiny",
            HUNYUAN,
            TINY
            | {"num_layers": 2, "num_single_layers": 2, "num_refiner_layers": 1, "rope_axes_dim": (4, 6, 6)}
            | {"text_embed_dim": 32, "pooled_projection_dim": 32, "guidance_embeds": True},
            partial(_hunyuan, video=(3, 4, 4), text=8),
            1,
        ),
    )
}
"""The three of the paper in full size, a FLUX that fits a CPU, and tiny ones for tests."""


def network_names(wanted: Sequence[str] | None, usual: Sequence[str]) -> Sequence[str]:
    """Those that are wanted, or the usual ones.

    Raises:
        WorkloadError: one is wanted that is not there.
    """
    if unknown := [name for name in wanted or () if name not in NETWORKS]:
        raise WorkloadError(f"no network is called {' or '.join(unknown)}; there are {', '.join(NETWORKS)}")
    return wanted or usual
