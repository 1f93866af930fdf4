"""The loss of a rectified flow (Liu et al. 2022), which the emoji and the motion model were trained with."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["flow_loss"]


def flow_loss(
    model: Callable[..., Tensor], clean: Tensor, words: Tensor, generator: torch.Generator, shift: float = 1.0
) -> Tensor:
    """Mean squared velocity error at a logit-normal time for each sample (Esser et al. 2024).

    With ``x_t = (1 - t) x + t noise`` the network predicts ``noise - x`` from ``x_t``.

    Args:
        model: of ``(x_t, t, words)``.
        clean: samples ``(B, ...)``.
        shift: moves times towards noise, ``shift t / (1 + (shift - 1) t)``, as the scheduler of that name.
    """
    t = torch.sigmoid(torch.randn(len(clean), generator=generator)).to(clean.device)
    t = shift * t / (1 + (shift - 1) * t)
    noise = torch.randn(clean.shape, generator=generator).to(clean.device)
    noisy = torch.lerp(clean, noise, t.view(-1, *[1] * (clean.ndim - 1)))
    with torch.autocast(clean.device.type, torch.bfloat16):
        velocity = model(noisy, t, words)
    error: Tensor = velocity.float() - (noise - clean)
    return error.square().mean()
