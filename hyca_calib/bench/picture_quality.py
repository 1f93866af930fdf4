"""Pictures judged on their own: how far from real ones, what is recognised, whether they are as good as the full run's.

No picture is compared with the full run's of the same noise; only what each of them shows on its own is.
"""

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t
from torch import Tensor

from hyca_calib.bench.equivalence import Departure, Margins, Marks, Outcome, departures, outcome
from hyca_calib.bench.marks import CONFIDENCE, confidence, detail
from hyca_calib.demo.judge.network import Judge, labels_of
from hyca_calib.pipelines.workload import Job
from hyca_calib.quality.metrics import interval, prompt_groups

Array = NDArray[np.float64]
Interval = tuple[float, float, float]
"""A value and both ends of its 95 % interval."""


@dataclass(frozen=True)
class JudgedPictures:
    """What the judge sees in each picture of one method.

    Attributes:
        features: ``(sample, feature)``.
        recalled: share of what was asked for that the judge recognises, ``(sample,)``; NaN where it knows none of it.
        marks: detail and confidence, by name, ``(sample,)`` each.
    """

    features: Array
    recalled: tuple[float, ...]
    marks: Marks = field(default_factory=dict)


@dataclass(frozen=True)
class PictureQuality:
    """Figures that need no reference picture.

    Attributes:
        frechet: distance of the pictures' features to those of real pictures, lower is better.
        accuracy: share of the words, or classes, asked for that the judge recognises; None if it knows none of them.
        frechet_excess, accuracy_gain: over the full run's, and 95 % interval that respects repeated prompts: of a
            jackknife, for resamples with repeats have too small a covariance, and of a bootstrap.
        outcome: of the tests of `hyca_calib.bench.equivalence`, on the marks.
    """

    frechet: float
    accuracy: float | None
    frechet_excess: Interval = (0.0, 0.0, 0.0)
    accuracy_gain: Interval | None = (0.0, 0.0, 0.0)
    outcome: Outcome = "cannot tell"
    departures: tuple[Departure, ...] = ()


@dataclass(frozen=True)
class Judging:
    """The judge of a model at work: pictures on their own, against the full run's of the same samples.

    Attributes:
        margins: within which pictures are as good; without them nothing can be shown to be.
        full: gives pictures ``(sample, 3, height, width)`` of the full run of `jobs`.
    """

    judge: Judge
    margins: Margins | None
    jobs: Sequence[Job]
    full: Callable[[], Tensor]

    @cached_property
    def _judged_full(self) -> JudgedPictures:
        return judged(self.judge, self.full(), self.jobs)

    def quality(self, images: Tensor | None) -> PictureQuality:
        """The quality of a method's pictures of the same samples.

        Raises:
            ValueError: there are none: a method that gave pictures once failed now.
        """
        if images is None:
            raise ValueError("the method gave no pictures this time; measure it again")
        found = judged(self.judge, images, self.jobs)
        return quality(self.judge, found, self._judged_full, self.margins, prompt_groups(self.jobs))


def frechet_distance(features: Array, mean: Array, covariance: Array) -> float:
    r"""Distance between a normal distribution fitted to ``(sample, feature)`` and the given one (Heusel et al. 2017).

    .. math:: |m - \mu|^2 + \mathrm{tr}(C + \Sigma - 2 (\Sigma^{1/2} C \Sigma^{1/2})^{1/2})
    """
    values, vectors = np.linalg.eigh(covariance)
    root = vectors * np.sqrt(values.clip(min=0)) @ vectors.T
    own = np.cov(features, rowvar=False)
    common = np.sqrt(np.linalg.eigvalsh(root @ own @ root).clip(min=0)).sum()
    apart = np.square(features.mean(axis=0) - mean).sum()
    return float(apart + np.trace(own) + np.trace(covariance) - 2 * common)


def judged(judge: Judge, images: Tensor, jobs: Sequence[Job]) -> JudgedPictures:
    """What the judge sees in pictures ``(sample, 3, height, width)`` of `jobs` in [0, 1]."""
    features, logits = judge.judge(images)
    asked = [labels_of(job.call) for job in jobs]
    marks = {**detail(images, judge.frames), CONFIDENCE: confidence(judge, logits, asked)}
    return JudgedPictures(features.double().numpy(), tuple(judge.recalled(logits, asked)), marks)


def quality(
    judge: Judge,
    found: JudgedPictures,
    full: JudgedPictures,
    margins: Margins | None = None,
    groups: Sequence[int] | None = None,
) -> PictureQuality:
    """The quality of one method's pictures, against the full run on the same jobs.

    Args:
        margins: see `hyca_calib.bench.equivalence.load_margins`; without them nothing can be shown to be as good.
        groups: a label per sample, see `hyca_calib.quality.metrics.prompt_groups`; samples with the same one are drawn
            together.
    """
    mean, covariance = judge.mean.double().numpy(), judge.covariance.double().numpy()
    labels = np.arange(len(full.recalled)) if groups is None else np.asarray(groups)
    recalled, known = np.asarray(found.recalled), ~np.isnan(full.recalled)
    gains = np.subtract(recalled, full.recalled)[known].tolist()

    def excess(of: Array | slice = slice(None)) -> float:
        one, other = (frechet_distance(pictures.features[of], mean, covariance) for pictures in (found, full))
        return one - other

    without = [excess(labels != label) for label in np.unique(labels)]
    apart = departures(found.marks, full.marks, margins, labels.tolist())
    return PictureQuality(
        frechet=frechet_distance(found.features, mean, covariance),
        accuracy=statistics.fmean(recalled[known]) if gains else None,
        frechet_excess=_jackknife(excess(), without),
        accuracy_gain=interval(gains, groups=labels[known].tolist()) if gains else None,
        outcome=outcome(apart),
        departures=apart,
    )


def _jackknife(value: float, without: Sequence[float]) -> Interval:
    """A value and its 95 % t interval, from the values `without` one group each (Tukey 1958)."""
    count = len(without)
    if count < 2:
        return value, value, value
    error = math.sqrt((count - 1) ** 2 / count * np.var(without, ddof=1))
    reach = float(t.ppf(0.975, count - 1)) * error
    return value, value - reach, value + reach
