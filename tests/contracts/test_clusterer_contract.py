"""What every clusterer must keep. A new one adds its name to `NAMES`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from hyca_calib.clusters import clusterers
from hyca_calib.testing import CLUSTERER_CHECKS, check_clusterer

NAMES = ["kmeans", "gaussian_mixture", "agglomerative"]


@pytest.mark.parametrize("check", CLUSTERER_CHECKS)
@pytest.mark.parametrize("name", NAMES)
def test_clusterer_contract(name: str, check: Callable[[str], None]) -> None:
    check(name)


def test_the_contract_refuses_a_clusterer_that_ignores_the_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    def by_number(descriptors: np.ndarray, num_groups: int, seed: int) -> np.ndarray:
        return np.arange(len(descriptors)) % num_groups

    monkeypatch.setitem(clusterers._entries, "by_number", by_number)
    with pytest.raises(AssertionError, match="Rand index"):
        check_clusterer("by_number")
