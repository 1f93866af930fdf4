r"""On which steps the network is computed: after each computed step a counter says how many steps go by to the next.

With :math:`p_t` what the network puts out at a computed step t, and k steps since the one computed before,

.. math:: D_t = \frac{\| p_t - p_{t-k} \|_1}{k}\, \| \nabla p_t \|,

the last factor being how much neighbouring frames differ, 1 for what has no frames. The counter is long where D is
below the first of two thresholds, short where it is not below the second.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from hyca_calib.search.smoothcache.calibration import distance
from hyca_runtime.feature import Feature

LENGTHS = ((1, 2, 4), (2, 4, 8), (4, 8, 16), (8, 16, 32))
"""Counters, short to long, that are tried one after another; the paper has none."""
LEVELS = 32
"""Steps in which the share of divergences below the second threshold is raised."""

Distances = Sequence[Sequence[float]]
"""``[j - 1][t]``: how far the output of step t + j is from that of step t."""


@dataclass(frozen=True)
class Counters:
    """How many steps go by.

    Attributes:
        lengths: short, middle, long.
        thresholds: of the divergence: below the first the counter is long, below the second middle.
    """

    lengths: tuple[int, int, int]
    thresholds: tuple[float, float]

    def after(self, divergence: float) -> int:
        """The next computed step, counted from one of such a divergence."""
        low, high = self.thresholds
        short, middle, long = self.lengths
        return long if divergence < low else middle if divergence < high else short


def computed_steps(distances: Distances, counters: Counters, num_steps: int, first: int = 1) -> dict[int, float]:
    """The computed steps, each with its divergence; infinite that of the first, which are computed in any case.

    Args:
        distances: each times the later output's own change from frame to frame.
        first: how many these are.
    """
    found, before, step = dict.fromkeys(range(first), np.inf), first - 1, first
    while step < num_steps:
        found[step] = distances[step - before - 1][before] / (step - before)
        before, step = step, step + counters.after(found[step])
    return {step: float(divergence) for step, divergence in found.items()}


def gentlest(distances: Distances) -> Iterator[Counters]:
    """Counters, those first that compute most: ever more divergences count as small, then counters are longer."""
    for lengths in LENGTHS:
        known = sorted(row[t] / j for j, row in enumerate(distances[: lengths[-1]], 1) for t in range(len(row)))
        for level in range(LEVELS + 1):
            share = level / LEVELS
            yield Counters(lengths, (_quantile(known, share / 2), _quantile(known, share)))


def _quantile(known: Sequence[float], share: float) -> float:
    """The number that this share of some lies below."""
    return float(np.nextafter(np.quantile(known, share), np.inf)) if share == 1 else float(np.quantile(known, share))


def moving_distance(older: Feature, newer: Feature) -> float:
    """The distance, times that from frame to frame of the newer output where it has frames."""
    return distance(older, newer) * _between_frames(newer[0])


def _between_frames(output: Tensor) -> float:
    """Videos are ``(batch, channel, frame, height, width)``."""
    if output.ndim != 5 or output.shape[2] < 2:
        return 1.0
    return (output[:, :, 1:].float() - output[:, :, :-1].float()).abs().mean().item()
