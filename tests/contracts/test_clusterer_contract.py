"""What every clusterer must keep. A new one adds its name to `NAMES`."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import adjusted_rand_score

from hyca_calib.clusters import cluster

NAMES = ["kmeans", "gaussian_mixture", "agglomerative"]


def blobs(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    truth = np.repeat([0, 1, 2], 20)
    return rng.normal(size=(60, 4)) * 0.2 + 4 * truth[:, None], truth


@pytest.mark.parametrize("name", NAMES)
class TestClustererContract:
    def test_is_a_partition(self, name: str) -> None:
        groups = cluster(name, blobs()[0], 7, seed=0)
        assert sorted(np.concatenate(groups).tolist()) == list(range(60))
        assert all(len(group) for group in groups)

    def test_finds_separate_blobs(self, name: str) -> None:
        points, truth = blobs()
        labels = np.zeros(60)
        for i, group in enumerate(cluster(name, points, 3, seed=0)):
            labels[group] = i
        assert adjusted_rand_score(truth, labels) == 1.0

    def test_same_seed_same_groups(self, name: str) -> None:
        points = np.random.default_rng(1).normal(size=(60, 4))
        once, again = (cluster(name, points, 5, seed=3) for _ in range(2))
        assert [g.tolist() for g in once] == [g.tolist() for g in again]

    def test_more_groups_than_channels(self, name: str) -> None:
        groups = cluster(name, blobs()[0][:4], 9, seed=0)
        assert sorted(np.concatenate(groups).tolist()) == [0, 1, 2, 3]
