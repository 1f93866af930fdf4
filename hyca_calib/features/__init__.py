"""Descriptors of feature dimensions, for clustering."""
