"""Clusterers that ship with HyCa; importing this package registers them."""

from hyca_calib.clusters.base import Clusterer, cluster, clusterers
from hyca_calib.clusters.scikit import agglomerative, gaussian_mixture, kmeans

__all__ = ["Clusterer", "agglomerative", "cluster", "clusterers", "gaussian_mixture", "kmeans"]
