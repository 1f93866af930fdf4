"""Do groups stay the same when the data change, and are they groups at all?

Agreement is the adjusted Rand index: 1 for the same groups under whatever names, 0 for what chance
gives, below for less. Separation is the mean silhouette: it says that groups lie apart, not that they
are found again.
"""

import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import adjusted_rand_score, silhouette_score

from hyca_calib.clusters.base import Array, Labels, cluster


def labels_of(groups: Sequence[NDArray[np.int64]], count: int) -> Labels:
    """The group of each of `count` channels, ``(channel,)``, from the channel indices of each group."""
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


def separation(descriptors: Array, labels: Labels) -> float:
    """Mean silhouette, -1 to 1; NaN where it is not defined: one group, or every channel its own."""
    if not 2 <= len(np.unique(labels)) < len(labels):
        return float("nan")
    return float(silhouette_score(descriptors, labels))
