"""Gaussian mixture with diagonal covariances."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.mixture import GaussianMixture

from hyca_calib.clusters.base import clusterers

__all__ = ["gaussian_mixture"]


def gaussian_mixture(descriptors: NDArray[np.float64], num_groups: int, seed: int) -> NDArray[np.int64]:
    """The most likely component of each channel."""
    mixture = GaussianMixture(num_groups, covariance_type="diag", reg_covar=1e-3, random_state=seed)
    return np.asarray(mixture.fit_predict(descriptors), dtype=np.int64)


clusterers.add("gaussian_mixture", gaussian_mixture)
