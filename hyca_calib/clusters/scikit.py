"""Clusterers of scikit-learn; HyCa's choice is k-means."""

import numpy as np
from sklearn.cluster import AgglomerativeClustering, KMeans
from sklearn.mixture import GaussianMixture

from hyca_calib.clusters.base import Array, Labels, clusterers


def kmeans(descriptors: Array, num_groups: int, seed: int) -> Labels:
    """Lloyd's k-means, best of four starts."""
    method = KMeans(num_groups, n_init=4, random_state=seed)
    return np.asarray(method.fit_predict(descriptors), dtype=np.int64)


def gaussian_mixture(descriptors: Array, num_groups: int, seed: int) -> Labels:
    """The most likely component of each channel in a Gaussian mixture with diagonal covariances."""
    method = GaussianMixture(num_groups, covariance_type="diag", reg_covar=1e-3, random_state=seed)
    return np.asarray(method.fit_predict(descriptors), dtype=np.int64)


def agglomerative(descriptors: Array, num_groups: int, seed: int) -> Labels:
    """Ward's clustering, which merges the two groups whose union grows the variance least; it needs no seed."""
    del seed
    return np.asarray(AgglomerativeClustering(num_groups).fit_predict(descriptors), dtype=np.int64)


for method in (kmeans, gaussian_mixture, agglomerative):
    clusterers.add(method.__name__, method)
