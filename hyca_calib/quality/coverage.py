"""Whether bounds for new prompts hold for prompts that they were not made of."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import betabinom

from hyca_calib.quality.conformal import LEVEL, bound_rank, fewest_prompts
from hyca_runtime.errors import WorkloadError

Array = NDArray[np.float64]
SPLITS = 2000
WITHIN = 0.95


@dataclass(frozen=True)
class Coverage:
    """What share of held-out prompts are at or above bounds that others made.

    Attributes:
        calibrating, held_out: prompts on either side of a split.
        share: of the held-out prompts, mean over the splits.
        expected: what conformal prediction says of it, see `hyca_calib.quality.conformal`; with ties it is more.
        low, high: between which the share of one split lies in 95 of 100 cases: the binomial interval, over bounds that
            are drawn, too (beta-binomial).
        within: share of the splits that lie there.
    """

    calibrating: int
    held_out: int
    share: float
    expected: float
    low: float
    high: float
    within: float

    def __str__(self) -> str:
        of = f"bounds of {self.calibrating} prompts hold for {self.share:.3f} of {self.held_out} others"
        one = f"{100 * WITHIN:.0f} % of splits should lie between {self.low:.3f} and {self.high:.3f}"
        return f"{of}, expected {self.expected:.3f}; {one}, {100 * self.within:.1f} % do"


def held_for(made: int, others: int, level: float) -> Any:
    """For how many of others a bound of so many prompts holds, as a distribution of `scipy.stats`, if all are drawn
    alike: binomial, over bounds that are drawn, too (beta-binomial)."""
    rank = bound_rank(made, level)
    return betabinom(others, made + 1 - rank, rank)


def coverage(calibrating: Array, held_out: Array, level: float = LEVEL) -> Coverage:
    """Hold the bounds of prompts against others.

    Args:
        calibrating, held_out: worst agreement of every prompt, ``(prompt,)`` or ``(split, prompt)``.

    Raises:
        WorkloadError: too few prompts for a bound, or none are held out.
    """
    (n, m), fewest = (calibrating.shape[-1], held_out.shape[-1]), fewest_prompts(level)
    if n < fewest or not m:
        needed = f"at least {fewest} prompts for the bound at {level:g} and 1 beside them"
        raise WorkloadError(f"it needs {needed}, got {n} and {m}; evaluate more prompts or lower the level")
    rank = bound_rank(n, level)
    bound = np.sort(calibrating, axis=-1)[..., rank - 1, None]
    covered = (held_out >= bound).sum(-1)
    low, high = held_for(n, m, level).interval(WITHIN)
    within = float(np.mean((covered >= low) & (covered <= high)))
    return Coverage(n, m, float(covered.mean() / m), (n + 1 - rank) / (n + 1), float(low / m), float(high / m), within)


def coverage_of_halves(worst: Array, level: float = LEVEL, splits: int = SPLITS, seed: int = 0) -> Coverage:
    """Coverage over random halves of the same prompts, ``(prompt,)``.

    Halves that are drawn at random are exchangeable whatever the prompts are, so this shows that the bound is right for
    agreements such as these; that new prompts are of their kind, only `coverage` of new prompts can show.

    Raises:
        WorkloadError: a half has too few prompts for a bound.
    """
    drawn = np.random.default_rng(seed).permuted(np.tile(worst, (splits, 1)), axis=1)
    half = len(worst) // 2
    return coverage(drawn[:, :half], drawn[:, half:], level)
