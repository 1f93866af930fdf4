"""How far an accelerated run is from the full one."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import norm, t
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from hyca_calib.pipelines.workload import Job

Array = NDArray[np.float64]
RESAMPLES = 2000


def log_error(latents: Tensor, reference: Tensor) -> Tensor:
    """The natural logarithm of each sample's mean squared error, ``(sample,)``."""
    return (latents - reference).square().flatten(1).mean(1).clamp(min=1e-20).log()


@dataclass(frozen=True)
class SampleFidelity:
    """Pictures of two runs compared, sample by sample.

    Attributes:
        psnr_db: peak signal-to-noise ratio in dB, peak 1.
        ssim: structural similarity, 1 for equal pictures.
        latent_error: squared error of the latent over the reference's squared norm.
    """

    psnr_db: tuple[float, ...]
    ssim: tuple[float, ...]
    latent_error: tuple[float, ...]


def image_psnr(images: Tensor, reference: Tensor) -> list[float]:
    """Peak signal-to-noise ratio in dB of each picture ``(sample, ...)`` in [0, 1], at most 150."""
    pairs = zip(images.float(), reference.float(), strict=True)
    return [peak_signal_noise_ratio(a, b, data_range=1.0).clamp(max=150).item() for a, b in pairs]


def compare_images(images: Tensor, reference: Tensor, latents: Tensor, reference_latents: Tensor) -> SampleFidelity:
    """Compare pictures ``(sample, 3, height, width)`` in [0, 1] and their latents."""
    pairs = zip(images.float(), reference.float(), strict=True)
    ssim = [structural_similarity_index_measure(a[None], b[None], data_range=1.0) for a, b in pairs]
    error = (latents - reference_latents).square().flatten(1).sum(1)
    relative = error / reference_latents.square().flatten(1).sum(1)
    return SampleFidelity(
        tuple(image_psnr(images, reference)), tuple(float(torch.as_tensor(s)) for s in ssim), tuple(relative.tolist())
    )


def prompt_groups(jobs: Sequence[Job]) -> tuple[int, ...]:
    """A number for each job, the same for those with the same arguments of the call: their samples are related."""
    seen: dict[str, int] = {}
    return tuple(seen.setdefault(json.dumps(job.call, sort_keys=True, default=repr), len(seen)) for job in jobs)


def interval(
    values: Sequence[float], seed: int = 0, groups: Sequence[int] | None = None, level: float = 0.95
) -> tuple[float, float, float]:
    """Mean and bootstrap interval of the mean.

    Args:
        groups: a label per sample; samples with the same one are drawn together, since three noises of one prompt say
            less than three prompts. All are on their own by default.
        level: the share of such intervals that hold the true mean. Of one group the interval is the mean itself, for
            nothing is known of how others differ.
    """
    sample = np.asarray(values, dtype=np.float64)[:, None]
    labels = range(len(sample)) if groups is None else groups
    draws = resampled_means(sample, labels, RESAMPLES, seed)
    low, high = interval_ends(draws[:, 0], (1 - level) / 2, len(set(labels)))
    return float(sample.mean()), float(low), float(high)


def resampled_means(values: Array, groups: Sequence[int], draws: int, seed: int = 0) -> Array:
    """Means ``(draw, column)`` over whole groups that are drawn with replacement.

    Args:
        values: ``(sample, column)``; NaN is left out.
        groups: a label per sample.
    """
    if len(groups) != len(values):
        raise ValueError(f"got {len(groups)} labels of groups for {len(values)} samples; give one for each")
    _, member = np.unique(np.asarray(groups), return_inverse=True)
    count = int(member.max()) + 1
    known = ~np.isnan(values)
    sums, sizes = np.zeros((count, values.shape[1])), np.zeros((count, values.shape[1]))
    np.add.at(sums, member, np.where(known, values, 0.0))
    np.add.at(sizes, member, known)
    picks = np.random.default_rng(seed).integers(count, size=(draws, count))
    flat = (picks + count * np.arange(draws)[:, None]).ravel()
    times = np.bincount(flat, minlength=draws * count).reshape(draws, count)
    # a draw may miss all groups that have a value in a column
    weight = times @ sizes
    means: Array = np.divide(times @ sums, weight, out=np.full_like(weight, np.nan), where=weight > 0)
    return means


def interval_ends(draws: Array, tail: float, groups: int) -> Array:
    """Both ends of the interval that leaves out `tail` at each of them, from a bootstrap over so many groups.

    Percentiles of few groups lie too close together; those of the expanded percentile interval (Hesterberg,
    arXiv 1411.5279) have the width of a t interval.

    Args:
        draws: ``(draw, ...)``; NaN is left out.

    Returns:
        ``(2, ...)``.
    """
    expanded = norm.cdf(math.sqrt(groups / (groups - 1)) * t.ppf(tail, groups - 1)) if groups > 1 else 0.0
    return np.asarray(np.nanquantile(draws, (expanded, 1 - expanded), axis=0))
