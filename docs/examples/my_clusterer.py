"""A cluster method in one file: channels sorted by their first descriptor, cut into groups of equal size."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hyca_calib.clusters import clusterers


def quantiles(descriptors: NDArray[np.float64], num_groups: int, seed: int) -> NDArray[np.int64]:
    """Labels ``(channel,)``; nothing is random here."""
    del seed
    rank = np.argsort(np.argsort(descriptors[:, 0], kind="stable"))
    return rank * num_groups // len(descriptors)


clusterers.add("quantiles", quantiles)  # other distributions use the entry point "hyca.clusterers" instead
