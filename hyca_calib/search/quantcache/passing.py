r"""Which blocks are passed by on a computed step.

A block changes little if the cosine S of what comes in and what it puts out is high. On the next computed step it is
passed by if S was above the higher of two thresholds; between them with a probability, which is higher where the run
is calm,

.. math:: V_t = \sum_{i=1}^{k} \| p_t - p_{t-i} \|_1,

and lower where it is not. Draws come from a seed, so that a plan is the same again.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hyca_calib.search.quantcache.counters import Distances
from hyca_calib.search.replay import Array

ALWAYS, NEVER = 0.95, 0.85
"""Shares of cosines below the higher and the lower threshold."""
CALM, WILD = 1 / 3, 2 / 3
"""The same of the two thresholds of V."""
CHANCE, BEND = 0.5, 0.25
"""The probability between the thresholds, and how much more or less it is."""


@dataclass(frozen=True)
class Passing:
    """When blocks are passed by.

    Attributes:
        low, high: thresholds of the cosine.
        calm, wild: of V.
        seed: of the draws.
    """

    low: float
    high: float
    calm: float
    wild: float
    seed: int = 0

    @classmethod
    def fitted(cls, cosines: Mapping[str, Sequence[float]], unrest: Sequence[float], seed: int) -> Passing:
        """Thresholds that lie at fixed shares of what was measured; nothing is passed by where nothing was."""
        known = [value for of in cosines.values() for value in of]
        if not known:
            return cls(2.0, 2.0, 0.0, 0.0, seed)
        low, high = (float(np.quantile(known, share)) for share in (NEVER, ALWAYS))
        calm, wild = (float(np.quantile(unrest, share)) for share in (CALM, WILD))
        return cls(low, high, calm, wild, seed)

    def chance(self, unrest: float) -> float:
        """The probability between the thresholds."""
        return CHANCE + (BEND if unrest < self.calm else -BEND if unrest > self.wild else 0.0)

    def passed(
        self, cosines: Mapping[str, Sequence[float]], unrest: Sequence[float], computed: Sequence[int]
    ) -> dict[int, tuple[str, ...]]:
        """The blocks that are passed by on each computed step; none on the first.

        Args:
            cosines: by block, one for each step.
            unrest: V of each step.
        """
        rng = np.random.default_rng(self.seed)
        found: dict[int, tuple[str, ...]] = dict.fromkeys(computed, ())
        for before, step in itertools.pairwise(computed):
            drawn = rng.random(len(cosines))
            certain = [of[before] > self.high for of in cosines.values()]
            likely = [of[before] >= self.low for of in cosines.values()]
            chosen = [
                c or (n and d < self.chance(unrest[before])) for c, n, d in zip(certain, likely, drawn, strict=True)
            ]
            found[step] = tuple(block for block, passed in zip(cosines, chosen, strict=True) if passed)
        return found


def unrest_of(distances: Distances, num_steps: int, reach: int) -> list[float]:
    """V of each step, over the `reach` steps before it."""
    table: Array = np.zeros(num_steps)
    for j, row in enumerate(distances[:reach], 1):
        table[j : j + len(row)] += row
    return [float(value) for value in table]
