"""What changes how tiny pipelines call their network: an IP-adapter, and guidance within an interval or with pauses."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def with_picture_prompt(pipe: Any) -> None:
    """An IP-adapter with random weights."""
    network, generator = pipe.transformer, torch.Generator().manual_seed(0)
    width, inner = network.config.joint_attention_dim, network.inner_dim

    def linear(to: int, of: int, name: str) -> dict[str, Tensor]:
        return {f"{name}.weight": torch.randn(to, of, generator=generator), f"{name}.bias": torch.zeros(to)}

    norm = {"norm.weight": torch.ones(width), "norm.bias": torch.zeros(width)}
    blocks = range(len(network.transformer_blocks))
    taps = [linear(inner, width, f"{i}.{name}") for i in blocks for name in ("to_k_ip", "to_v_ip")]
    adapter = {name: weight for tap in taps for name, weight in tap.items()}
    network._load_ip_adapter_weights([{"image_proj": linear(4 * width, PICTURE, "proj") | norm, "ip_adapter": adapter}])


PICTURE = 8
PICTURE_PROMPT = {
    "ip_adapter_image_embeds": [torch.ones(1, 1, PICTURE)],
    "negative_ip_adapter_image_embeds": [torch.zeros(1, 1, PICTURE)],
}
SKIP_LAYER = {"skip_guidance_layers": [0], "skip_layer_guidance_start": 0.01, "skip_layer_guidance_stop": 0.5}
"""A third branch of SD3 from the second step to half of the run."""


def pausing(pipe: Any, step: int, *_: Any) -> dict[str, Tensor]:
    """A callback that leaves guidance on for every third step."""
    pipe._guidance_scale = 4.0 if step % 3 == 2 else 1.0
    return {}
