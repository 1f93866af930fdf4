"""Would the groups be found again? The plan's clustering on other samples, another seed, and parts of the run."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hyca_calib.clusters.stability import agreement, labels_by
from hyca_calib.features.descriptors import describe_channels
from hyca_calib.search.problem import Problem

FEWEST_STEPS = 8
"""Of a part of a run; dynamics of fewer say nothing."""


def regrouped(problem: Problem, settings: dict[str, Any], seed: int) -> tuple[list[str], NDArray[np.float64]] | None:
    """Names of the labelings and their adjusted Rand indices; None where there is one group, or one a channel.

    Args:
        settings: of the plan's search, see `Settings`.
    """
    count, channels = settings.get("groups", 1), problem.trace.num_channels
    if not 1 < count < channels:
        return None
    half, families = problem.trace.num_steps // 2, tuple(settings["descriptors"].split("+"))
    cases = {"the plan's": (problem.fit, seed), "other seed": (problem.fit, seed + 1)}
    cases["other samples"] = (problem.select, seed)
    if half >= FEWEST_STEPS:
        cases["first half"] = (problem.fit[:, :half, :half], seed)
        cases["second half"] = (problem.fit[:, half:, half:], seed)
    labels = [
        labels_by(settings["clusterer"], describe_channels(gram, families), count, s) for gram, s in cases.values()
    ]
    return list(cases), agreement(labels)
