"""How far labelings of the channels agree, in a few numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hyca_calib.clusters.stability import agreement
from studies.paper.replay_setup import Labels


@dataclass(frozen=True)
class Agreement:
    """Adjusted Rand index over pairs of labelings: mean, standard deviation, extremes."""

    mean: float
    spread: float
    lowest: float
    highest: float
    pairs: int


def summary(labelings: Sequence[Labels]) -> Agreement:
    """Agreement of two labelings or more, over all pairs."""
    pairs = agreement(labelings)[np.triu_indices(len(labelings), k=1)]
    if not pairs.size:
        raise ValueError("agreement needs at least two labelings")
    return Agreement(float(pairs.mean()), float(pairs.std()), float(pairs.min()), float(pairs.max()), pairs.size)
