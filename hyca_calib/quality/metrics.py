"""How far an accelerated run is from the full one."""

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import norm, t
from torch import Tensor
from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

from hyca_calib.pipelines.outputs import are_pictures
from hyca_calib.pipelines.workload import Job

Array = NDArray[np.float64]
RESAMPLES = 2000


def log_error(latents: Tensor, reference: Tensor) -> Tensor:
    """The natural logarithm of each sample's mean squared error, ``(sample,)``."""
    return (latents - reference).square().flatten(1).mean(1).clamp(min=1e-20).log()


Measure = Literal["PSNR", "signal-to-error ratio"]
"""What agreement is told as, in dB: the first of pictures and clips, the second of any other samples."""
MOST_DB = 150.0
"""Of equal samples."""
LEAST_SIDE = 11
"""Pixels of the window of structural similarity."""


@dataclass(frozen=True)
class SampleFidelity:
    """Samples of two runs compared, one by one.

    Attributes:
        signal_to_error_db: energy of the reference over that of the difference, in dB.
        psnr_db: peak signal-to-noise ratio of pictures in dB, for the peak see `peaks`; None of other samples.
        ssim: structural similarity, 1 for equal pictures; None of other samples and of very small pictures.
        latent_error: squared error of the latent over the reference's squared norm.
    """

    signal_to_error_db: tuple[float, ...]
    psnr_db: tuple[float, ...] | None
    ssim: tuple[float, ...] | None
    latent_error: tuple[float, ...]

    @property
    def agreement_db(self) -> tuple[float, ...]:
        """What the samples are judged by: PSNR of pictures, the signal-to-error ratio of others."""
        return self.signal_to_error_db if self.psnr_db is None else self.psnr_db


def compare_samples(samples: Tensor, reference: Tensor, latents: Tensor, reference_latents: Tensor) -> SampleFidelity:
    """Compare samples ``(sample, ...)`` and their latents; pictures are ``(sample, channel, height, width)``."""
    pictures = are_pictures(reference)
    return SampleFidelity(
        signal_to_error_db=tuple(signal_to_error(samples, reference)),
        psnr_db=tuple(image_psnr(samples, reference)) if pictures else None,
        ssim=tuple(_ssim(samples, reference)) if pictures and min(reference.shape[-2:]) >= LEAST_SIDE else None,
        latent_error=tuple(_relative_error(latents, reference_latents).tolist()),
    )


def agreement(samples: Tensor, reference: Tensor) -> list[float]:
    """What samples are judged by in dB, see `SampleFidelity.agreement_db`."""
    return image_psnr(samples, reference) if are_pictures(reference) else signal_to_error(samples, reference)


def signal_to_error(samples: Tensor, reference: Tensor) -> list[float]:
    """Energy of each reference sample over that of the difference, in dB, within +-150."""
    error = _relative_error(samples.double(), reference.double())
    equal = (samples == reference).flatten(1).all(1)
    return [float(db) for db in (-10 * error.log10()).clamp(-MOST_DB, MOST_DB).where(~equal, MOST_DB)]


def image_psnr(images: Tensor, reference: Tensor) -> list[float]:
    """Peak signal-to-noise ratio in dB of each picture ``(sample, ...)``, at most 150."""
    pairs = zip(images.float(), reference.float(), peaks(reference), strict=True)
    return [peak_signal_noise_ratio(a, b, data_range=peak).clamp(max=MOST_DB).item() for a, b, peak in pairs]


def peaks(reference: Tensor) -> list[float]:
    """The peak of each sample: 1 within [0, 1], where pictures are by contract; elsewhere the sample's own range."""
    low, high = reference.float().flatten(1).aminmax(dim=1)
    ranges = zip(low.tolist(), high.tolist(), strict=True)
    return [1.0 if least >= 0 and most <= 1 else most - least or 1.0 for least, most in ranges]


def _ssim(images: Tensor, reference: Tensor) -> Iterator[float]:
    for a, b, peak in zip(images.float(), reference.float(), peaks(reference), strict=True):
        yield float(torch.as_tensor(structural_similarity_index_measure(a[None], b[None], data_range=peak)))


def _relative_error(found: Tensor, reference: Tensor) -> Tensor:
    """Squared error of each sample over the reference's squared norm, ``(sample,)``."""
    error = (found - reference).square().flatten(1).sum(1)
    return error / reference.square().flatten(1).sum(1)


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
