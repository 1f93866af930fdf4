"""k-means, HyCa's choice."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans

from hyca_calib.clusters.base import clusterers

__all__ = ["kmeans"]


def kmeans(descriptors: NDArray[np.float64], num_groups: int, seed: int) -> NDArray[np.int64]:
    """Lloyd's k-means, best of four starts."""
    labels = KMeans(num_groups, n_init=4, random_state=seed).fit_predict(descriptors)
    return np.asarray(labels, dtype=np.int64)


clusterers.add("kmeans", kmeans)
