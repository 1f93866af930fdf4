"""How far an accelerated run is from the full one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

__all__ = ["Agreement", "compare_images", "interval", "log_error"]


def log_error(latents: Tensor, reference: Tensor) -> Tensor:
    """Natural logarithm of the mean squared error of each sample, ``(sample,)``."""
    return (latents - reference).square().flatten(1).mean(1).clamp(min=1e-20).log()


@dataclass(frozen=True)
class Agreement:
    """Pictures of two runs compared, sample by sample.

    Attributes:
        psnr_db: peak signal-to-noise ratio in dB, peak 1.
        ssim: structural similarity, 1 for equal pictures.
        latent_error: squared error of the latent over the reference's squared norm.
    """

    psnr_db: tuple[float, ...]
    ssim: tuple[float, ...]
    latent_error: tuple[float, ...]


def compare_images(images: Tensor, reference: Tensor, latents: Tensor, reference_latents: Tensor) -> Agreement:
    """Compare pictures ``(sample, 3, height, width)`` in [0, 1] and their latents."""
    pairs = list(zip(images.float(), reference.float(), strict=True))
    psnr = [peak_signal_noise_ratio(a, b, data_range=1.0).clamp(max=150).item() for a, b in pairs]
    ssim = [structural_similarity_index_measure(a[None], b[None], data_range=1.0) for a, b in pairs]
    error = (latents - reference_latents).square().flatten(1).sum(1)
    relative = error / reference_latents.square().flatten(1).sum(1)
    return Agreement(tuple(psnr), tuple(float(torch.as_tensor(s)) for s in ssim), tuple(relative.tolist()))


def interval(values: Sequence[float], seed: int = 0) -> tuple[float, float, float]:
    """Mean and 95 % bootstrap interval of the mean."""
    sample = np.asarray(values, dtype=np.float64)
    draws = np.random.default_rng(seed).choice(sample, (2000, len(sample))).mean(axis=1)
    low, high = np.quantile(draws, (0.025, 0.975))
    return float(sample.mean()), float(low), float(high)
