"""Ward's agglomerative clustering."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import AgglomerativeClustering

from hyca_calib.clusters.base import clusterers

__all__ = ["agglomerative"]


def agglomerative(descriptors: NDArray[np.float64], num_groups: int, seed: int) -> NDArray[np.int64]:
    """Merges the two groups whose union grows the variance least; needs no seed."""
    del seed
    return np.asarray(AgglomerativeClustering(num_groups).fit_predict(descriptors), dtype=np.int64)


clusterers.add("agglomerative", agglomerative)
