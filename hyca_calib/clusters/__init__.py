"""Clusterers that ship with HyCa; importing this package registers them."""

from hyca_calib.clusters.agglomerative import agglomerative
from hyca_calib.clusters.base import Clusterer, cluster, clusterers
from hyca_calib.clusters.gaussian_mixture import gaussian_mixture
from hyca_calib.clusters.kmeans import kmeans

__all__ = ["Clusterer", "agglomerative", "cluster", "clusterers", "gaussian_mixture", "kmeans"]
