"""What every clusterer must keep, for whoever writes one; solvers have theirs in `hyca_runtime.testing`.

With pytest::

    import pytest
    from hyca_calib.testing import CLUSTERER_CHECKS

    @pytest.mark.parametrize("check", CLUSTERER_CHECKS)
    def test_my_clusterer(check):
        check("my_clusterer")

or all at once, ``check_clusterer("my_clusterer")``. A check that fails raises AssertionError and says what was got.
"""

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import adjusted_rand_score

from hyca_calib.clusters import cluster

__all__ = [
    "CLUSTERER_CHECKS",
    "check_clusterer",
    "check_few_channels",
    "check_partition",
    "check_repeatable",
    "check_separate_blobs",
]


def _blobs() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Three clouds of 20 channels, far from one another, and the cloud of each channel."""
    truth = np.repeat([0, 1, 2], 20)
    return np.random.default_rng(0).normal(size=(60, 4)) * 0.2 + 4 * truth[:, None], truth


def check_partition(name: str) -> None:
    """Every channel is in exactly one group, and no group is empty."""
    groups = cluster(name, _blobs()[0], 7, seed=0)
    members = sorted(np.concatenate(groups).tolist())
    if members != list(range(60)) or not all(len(group) for group in groups):
        raise AssertionError(f"groups of {[len(group) for group in groups]} channels are no partition of 60")


def check_separate_blobs(name: str) -> None:
    """Clouds that lie far apart are found."""
    points, truth = _blobs()
    labels = np.zeros(60)
    for i, group in enumerate(cluster(name, points, 3, seed=0)):
        labels[group] = i
    agreement = adjusted_rand_score(truth, labels)
    if agreement != 1.0:
        raise AssertionError(f"three separate clouds: adjusted Rand index {agreement:.3f}, expected 1")


def check_repeatable(name: str) -> None:
    """The same seed gives the same groups."""
    points = np.random.default_rng(1).normal(size=(60, 4))
    once, again = ([group.tolist() for group in cluster(name, points, 5, seed=3)] for _ in range(2))
    if once != again:
        raise AssertionError("two calls with one seed gave different groups")


def check_few_channels(name: str) -> None:
    """More groups than channels are asked for: every channel is still in exactly one."""
    groups = cluster(name, _blobs()[0][:4], 9, seed=0)
    if sorted(np.concatenate(groups).tolist()) != [0, 1, 2, 3]:
        raise AssertionError(f"4 channels in at most 9 groups: got {[group.tolist() for group in groups]}")


CLUSTERER_CHECKS = (check_partition, check_separate_blobs, check_repeatable, check_few_channels)


def check_clusterer(name: str) -> None:
    """Run all of `CLUSTERER_CHECKS` on a registered clusterer; raises AssertionError at the first that fails."""
    for check in CLUSTERER_CHECKS:
        check(name)
