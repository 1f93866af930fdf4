"""Do groups stay the same when the data change, and are they groups at all?

Agreement is the adjusted Rand index: 1 for the same groups under whatever names, 0 for what chance
gives, below for less. Separation is the mean silhouette: it says that groups lie apart, not that they
are found again.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import adjusted_rand_score, silhouette_score

from hyca_calib.clusters.base import cluster

__all__ = ["Agreement", "agreement", "labels_by", "labels_of", "separation", "summary"]

Array = NDArray[np.float64]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Agreement:
    """Adjusted Rand index over pairs of labelings: mean, standard deviation, extremes."""

    mean: float
    spread: float
    lowest: float
    highest: float
    pairs: int


def labels_of(groups: Sequence[NDArray[np.int64]], count: int) -> Labels:
    """The group of each of `count` channels, ``(channel,)``."""
    labels = np.zeros(count, dtype=np.int64)
    for i, members in enumerate(groups):
        labels[members] = i
    return labels


def labels_by(clusterer: str, descriptors: Array, num_groups: int, seed: int) -> Labels:
    """`cluster` as labels ``(channel,)``; what a clusterer says of empty or flat groups is not repeated."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return labels_of(cluster(clusterer, descriptors, num_groups, seed), len(descriptors))


def agreement(labelings: Sequence[Labels]) -> Array:
    """Adjusted Rand index of every pair, ``(labeling, labeling)``."""
    found = np.eye(len(labelings))
    for i, one in enumerate(labelings):
        for j in range(i):
            found[i, j] = found[j, i] = adjusted_rand_score(one, labelings[j])
    return found


def summary(labelings: Sequence[Labels]) -> Agreement:
    """Agreement of two labelings or more, over all pairs."""
    pairs = agreement(labelings)[np.triu_indices(len(labelings), k=1)]
    if not pairs.size:
        raise ValueError("agreement needs at least two labelings")
    return Agreement(float(pairs.mean()), float(pairs.std()), float(pairs.min()), float(pairs.max()), pairs.size)


def separation(descriptors: Array, labels: Labels) -> float:
    """Mean silhouette, -1 to 1; NaN where it is not defined: one group, or every channel its own."""
    if not 2 <= len(np.unique(labels)) < len(labels):
        return float("nan")
    return float(silhouette_score(descriptors, labels))
