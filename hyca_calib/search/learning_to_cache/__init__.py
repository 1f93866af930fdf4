"""Learning-to-Cache, arXiv 2406.01733: every other step, layers repeat their output where a router, trained by gradient
through the frozen network, says so."""
