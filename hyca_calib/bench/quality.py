"""Pictures judged on their own: how far from real ones, what is recognised, whether they are as good as the full run's.

No picture is compared with the full run's of the same noise; only what each of them shows on its own is.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t
from torch import Tensor

from hyca_calib.bench.equivalence import Departure, Margins, Marks, Outcome, departures, outcome
from hyca_calib.bench.marks import CONFIDENCE, confidence, detail
from hyca_calib.demo.judge.network import Judge, labels_of
from hyca_calib.pipelines.workload import Job
from hyca_calib.quality.metrics import interval

__all__ = ["Quality", "Verdict", "frechet_distance", "judged", "quality"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Verdict:
    """What the judge sees in each picture of one method.

    Attributes:
        features: ``(sample, feature)``.
        recalled: share of what was asked for that the judge recognises, ``(sample,)``.
        marks: detail and confidence, by name, ``(sample,)`` each.
    """

    features: Array
    recalled: tuple[float, ...]
    marks: Marks = field(default_factory=dict)


@dataclass(frozen=True)
class Quality:
    """Figures that need no reference picture.

    Attributes:
        frechet: distance of the pictures' features to those of real pictures, lower is better.
        accuracy: share of the words, or classes, asked for that the judge recognises.
        frechet_excess, accuracy_gain: over the full run's, and 95 % interval that respects repeated prompts: of a
            jackknife, for resamples with repeats have too small a covariance, and of a bootstrap.
        outcome: of the tests of `hyca_calib.bench.equivalence`, on the marks.
        departures: of the marks from the full run's.
    """

    frechet: float
    accuracy: float
    frechet_excess: tuple[float, float, float] = (0.0, 0.0, 0.0)
    accuracy_gain: tuple[float, float, float] = (0.0, 0.0, 0.0)
    outcome: Outcome = "cannot tell"
    departures: tuple[Departure, ...] = ()


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
    asked = [labels_of(job.call) for job in jobs]
    marks = {**detail(images, judge.frames), CONFIDENCE: confidence(judge, logits, asked)}
    return Verdict(features.double().numpy(), tuple(judge.recalled(logits, asked)), marks)


def quality(
    judge: Judge,
    found: Verdict,
    full: Verdict,
    margins: Margins | None = None,
    groups: Sequence[int] | None = None,
    seed: int = 0,
) -> Quality:
    """Of one method, against the full run on the same jobs.

    Args:
        margins: see `hyca_calib.bench.power.load_margins`; without them nothing can be shown to be as good.
        groups: a label per sample, see `hyca_calib.quality.metrics.prompt_groups`; samples with the same one are drawn
            together.
    """
    mean, covariance = judge.mean.double().numpy(), judge.covariance.double().numpy()
    labels = np.arange(len(full.recalled)) if groups is None else np.asarray(groups)

    def excess(of: Array | slice = slice(None)) -> float:
        one, other = (frechet_distance(verdict.features[of], mean, covariance) for verdict in (found, full))
        return one - other

    without = [excess(labels != label) for label in np.unique(labels)]
    apart = departures(found.marks, full.marks, margins, labels.tolist(), seed)
    return Quality(
        frechet=frechet_distance(found.features, mean, covariance),
        accuracy=statistics.fmean(found.recalled),
        frechet_excess=_jackknife(excess(), without),
        accuracy_gain=interval(np.subtract(found.recalled, full.recalled).tolist(), seed, labels.tolist()),
        outcome=outcome(apart),
        departures=apart,
    )


def _jackknife(value: float, without: Sequence[float]) -> tuple[float, float, float]:
    """A value and its 95 % t interval, from the values `without` one group each (Tukey 1958)."""
    count = len(without)
    if count < 2:
        return value, value, value
    error = math.sqrt((count - 1) ** 2 / count * np.var(without, ddof=1))
    reach = float(t.ppf(0.975, count - 1)) * error
    return value, value - reach, value + reach
