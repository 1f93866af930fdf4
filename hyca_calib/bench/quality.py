"""Pictures judged on their own, without the full run's beside them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from hyca_calib.demo.judge.network import Judge, labels_of
from hyca_calib.workload import Job

__all__ = ["Quality", "Verdict", "frechet_distance", "judged", "quality"]

Array = NDArray[np.float64]
RESAMPLES = 500


@dataclass(frozen=True)
class Verdict:
    """What the judge sees in each picture of one method.

    Attributes:
        features: ``(sample, feature)``.
        recalled: share of what was asked for that the judge recognises, ``(sample,)``.
    """

    features: Array
    recalled: tuple[float, ...]


@dataclass(frozen=True)
class Quality:
    """Figures that need no reference picture.

    Attributes:
        frechet: distance of the pictures' features to those of real pictures, lower is better.
        accuracy: share of the words, or classes, asked for that the judge recognises.
        frechet_excess, accuracy_gain: over the full run's, and 95 % bootstrap interval, sample by sample.
    """

    frechet: float
    accuracy: float
    frechet_excess: tuple[float, float, float] = (0.0, 0.0, 0.0)
    accuracy_gain: tuple[float, float, float] = (0.0, 0.0, 0.0)

    @property
    def behind(self) -> bool:
        """Whether the pictures are worse than the full run's, beyond the interval."""
        return self.frechet_excess[1] > 0 or self.accuracy_gain[2] < 0


def frechet_distance(features: Array, mean: Array, covariance: Array) -> float:
    r"""Between normal distributions fitted to ``(sample, feature)`` and the given one (Heusel et al. 2017).

    .. math:: |m - \mu|^2 + \mathrm{tr}(C + \Sigma - 2 (\Sigma^{1/2} C \Sigma^{1/2})^{1/2})
    """
    values, vectors = np.linalg.eigh(covariance)
    root = vectors * np.sqrt(values.clip(min=0)) @ vectors.T
    own = np.cov(features, rowvar=False)
    common = np.sqrt(np.linalg.eigvalsh(root @ own @ root).clip(min=0)).sum()
    apart = np.square(features.mean(axis=0) - mean).sum()
    return float(apart + np.trace(own) + np.trace(covariance) - 2 * common)


def judged(judge: Judge, images: Tensor, jobs: Sequence[Job]) -> Verdict:
    """Pictures ``(sample, 3, height, width)`` of `jobs` in [0, 1]."""
    features, logits = judge.judge(images)
    return Verdict(features.double().numpy(), tuple(judge.recalled(logits, [labels_of(job.call) for job in jobs])))


def quality(judge: Judge, found: Verdict, full: Verdict, seed: int = 0) -> Quality:
    """Of one method, against the full run on the same jobs."""
    mean, covariance = judge.mean.double().numpy(), judge.covariance.double().numpy()
    rng = np.random.default_rng(seed)
    picks = rng.integers(len(found.features), size=(RESAMPLES, len(found.features)))

    def distance(verdict: Verdict, pick: Array | slice = slice(None)) -> float:
        return frechet_distance(verdict.features[pick], mean, covariance)

    def interval(value: float, draws: Sequence[float]) -> tuple[float, float, float]:
        low, high = np.quantile(draws, (0.025, 0.975))
        return value, float(low), float(high)

    gains = np.subtract(found.recalled, full.recalled)
    return Quality(
        frechet=distance(found),
        accuracy=statistics.fmean(found.recalled),
        frechet_excess=interval(
            distance(found) - distance(full), [distance(found, pick) - distance(full, pick) for pick in picks]
        ),
        accuracy_gain=interval(float(gains.mean()), [float(gains[pick].mean()) for pick in picks]),
    )
