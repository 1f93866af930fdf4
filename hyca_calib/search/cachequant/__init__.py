"""CacheQuant, arXiv 2503.01323: everything is computed in low precision, what a span of blocks adds is reused on steps
that a dynamic program chooses, and affine maps by channel and step correct what both do to the numbers."""
