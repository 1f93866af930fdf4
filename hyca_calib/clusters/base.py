"""Dividing channels into groups."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from hyca_runtime.registry import Registry

Array = NDArray[np.float64]
Labels = NDArray[np.int64]
"""The group of each channel, ``(channel,)``."""
Clusterer = Callable[[Array, int, int], Labels]
"""``(descriptors (channel, feature), num_groups, seed) -> labels``."""

clusterers: Registry[Clusterer] = Registry("clusterer", "hyca.clusterers")


def cluster(name: str, descriptors: Array, num_groups: int, seed: int) -> list[NDArray[np.int64]]:
    """Channel indices of each group, ordered by their first channel; never an empty group."""
    num_groups = min(num_groups, len(descriptors))
    if num_groups == 1:
        return [np.arange(len(descriptors))]
    labels = clusterers[name](descriptors, num_groups, seed)
    groups = [np.flatnonzero(labels == label) for label in np.unique(labels)]
    return sorted(groups, key=lambda indices: int(indices[0]))
