"""Pictures of a full run, damaged on purpose: what a judge must be able to see."""

import math
import statistics
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

from hyca_calib.bench.equivalence import PictureDamage
from hyca_calib.pipelines.workload import Job
from hyca_calib.quality.metrics import image_psnr

LEVELS = (40.0, 30.0, 25.0, 20.0)
"""PSNR to the full run, in dB."""
FEWER = "fewer steps"
PROBES = 4
"""Samples on which a step count is chosen."""
LADDER = (1, 2, 3, 4, 5, 7, 10, 15, 20, 30)
"""Step counts that are tried."""


def blurred(images: Tensor, sigma: float, frames: int) -> Tensor:
    """Pictures with every frame blurred by a normal kernel of standard deviation `sigma` pixels, edges repeated.

    Args:
        images: ``(sample, 3, frames * height, width)``.
    """
    reach = min(max(1, math.ceil(4 * sigma)), 64)
    line = torch.exp(-0.5 * (torch.arange(-reach, reach + 1.0) / sigma).square())
    kernel = line / line.sum()
    flat = images.reshape(len(images) * 3 * frames, 1, -1, images.shape[-1])
    wide = pad(flat, (reach,) * 4, mode="replicate")
    return conv2d(conv2d(wide, kernel[None, None, None]), kernel[None, None, :, None]).reshape(images.shape)


def noisy(images: Tensor, deviation: float, seed: int = 0) -> Tensor:
    """Pictures with normal noise added, kept in [0, 1]; the noise is the same for every `deviation`."""
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed))
    return (images + deviation * noise).clamp(0, 1)


def damaged_to(images: Tensor, level: float, damage: Callable[[Tensor, float], Tensor]) -> tuple[Tensor, float]:
    """Pictures damaged until their mean PSNR is `level` dB, and the strength, found by bisection on its logarithm."""
    low, high = 1e-3, 30.0
    for _ in range(30):
        strength = math.sqrt(low * high)
        if _psnr(damage(images, strength), images) > level:
            low = strength
        else:
            high = strength
    return damage(images, high), high


def damaged(
    full: Tensor,
    frames: int,
    jobs: Sequence[Job] = (),
    draw: Callable[[Sequence[Job], int], Tensor] | None = None,
    levels: Sequence[float] = LEVELS,
) -> list[tuple[PictureDamage, Tensor]]:
    """Pictures of a full run, blurred, noisy, and drawn with fewer steps, each near every level.

    Args:
        full: ``(sample, 3, frames * height, width)`` in [0, 1].
        draw: pictures of some of `jobs` with so many steps; without it no steps are left out. Step counts are chosen on
            the first `PROBES` jobs, and the one nearest to a level stands for it, however near that is.
    """
    found = []
    ways: dict[str, Callable[[Tensor, float], Tensor]] = {
        "blur": lambda images, sigma: blurred(images, sigma, frames),
        "noise": noisy,
    }
    for kind, way in ways.items():
        for level in levels:
            images, strength = damaged_to(full, level, way)
            found.append((PictureDamage(kind, level, _psnr(images, full), strength), images))
    if draw is not None:
        few = jobs[:PROBES]
        reached = {steps: _psnr(draw(few, steps), full[: len(few)]) for steps in LADDER}
        nearest = {level: min(LADDER, key=lambda steps: abs(reached[steps] - level)) for level in levels}
        drawn = {steps: draw(jobs, steps) for steps in sorted(set(nearest.values()))}
        for level, steps in nearest.items():
            found.append((PictureDamage(FEWER, level, _psnr(drawn[steps], full), steps), drawn[steps]))
    return found


def _psnr(images: Tensor, reference: Tensor) -> float:
    return statistics.fmean(image_psnr(images, reference))
