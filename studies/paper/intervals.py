"""Intervals: how they are made, what they decide, and how they are told.

They know which samples are of one prompt. A condition is met, is not met, or stays open, where its interval holds the
threshold, which the data could miss on either side. Of several conditions each must be met for the claim to hold, so
none needs a correction; where one of several is enough, their intervals are made wider beforehand (Bonferroni, see
`shared_level`).
"""

import itertools
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t

from hyca_calib.quality.metrics import RESAMPLES, interval, interval_ends, resampled_means
from hyca_calib.search.replay import Array
from hyca_calib.search.taps import TINY
from studies.paper.chapter import Verdict

Ratio = tuple[float, float, float]
"""Mean and 95 % interval."""
Found = Sequence[float]
"""The same, as JSON keeps it."""


def logarithm(costs: Array) -> Array:
    """Natural logarithm, of next to nothing where rounding leaves nothing."""
    return np.asarray(np.log(np.maximum(costs, TINY)))


def over(one: Array, other: Array, seed: int, groups: Sequence[int] | None = None, level: float = 0.95) -> Ratio:
    """Total cost of one ``(..., sample)`` over the other's, geometric mean over leading axes, with bootstrap interval.

    Groups are a label of each sample, its prompt's: samples of one prompt are drawn together.
    """
    rows = np.concatenate([np.atleast_2d(costs).reshape(-1, one.shape[-1]) for costs in (one, other)])
    labels = range(one.shape[-1]) if groups is None else groups

    def mean_log(means: Array) -> Array:
        tops, bottoms = np.split(logarithm(means), 2, axis=1)
        return np.asarray((tops - bottoms).mean(1))

    draws = mean_log(resampled_means(rows.T, labels, RESAMPLES, seed))
    low, high = np.exp(quantiles(draws, len(set(labels)), level))
    return float(np.exp(mean_log(rows.mean(1)[None])[0])), float(low), float(high)


def quantiles(draws: Array, groups: int, level: float = 0.95) -> tuple[float, float]:
    """Ends of the interval from bootstrap draws over so many groups."""
    low, high = interval_ends(draws, (1 - level) / 2, groups)
    return float(low), float(high)


def difference(one: Found, other: Found, groups: Sequence[int] | None = None, level: float = 0.95) -> Ratio:
    """One less other, sample by sample: mean and interval."""
    return interval([a - b for a, b in zip(one, other, strict=True)], 0, groups, level)


def apart(one: Found, other: Found) -> Ratio:
    """Mean of one less mean of other, which are of different samples, with interval."""
    draws = [resampled_means(np.array([x]).T, range(len(x)), RESAMPLES, i)[:, 0] for i, x in enumerate((one, other))]
    return float(np.mean(one) - np.mean(other)), *quantiles(draws[0] - draws[1], min(len(one), len(other)))


def bootstrapped(statistic: Callable[[NDArray[np.int64]], Array], count: int, seed: int) -> Ratio:
    """A statistic ``(..., thing) -> (...)`` of the numbers of so many things, with interval over them."""
    draws = np.random.default_rng(seed).integers(0, count, (RESAMPLES, count))
    return float(statistic(np.arange(count))), *quantiles(statistic(draws), count)


def student(values: Found, level: float = 0.95) -> Ratio:
    """Mean and Student's interval: for a few values, which no resampling can spread further than they lie."""
    mean, count = float(np.mean(values)), len(values)
    if count < 2:
        return mean, -np.inf, np.inf
    half = float(t.ppf((1 + level) / 2, count - 1) * np.std(values, ddof=1) / np.sqrt(count))
    return mean, mean - half, mean + half


def swing(costs: Array, seed: int, groups: Sequence[int] | None = None) -> Ratio:
    """Largest over smallest total of the rows of ``(way, sample)``, and what it surely is at least and at most.

    At most: the largest of the upper ends of all pairs, each at 95 %, for all of them must lie below. At least: the
    largest of the lower ends, at the level that the number of pairs asks for.
    """
    pairs, totals = list(itertools.permutations(costs, 2)), costs.sum(-1)
    highs = [over(*pair, seed, groups)[2] for pair in pairs]
    lows = [over(*pair, seed, groups, shared_level(len(pairs)))[1] for pair in pairs]
    return float(totals.max() / totals.min()), max(lows), max(highs)


def above(found: Found, threshold: float = 0.0) -> bool | None:
    """Whether the whole interval lies above the threshold; None if it holds it."""
    _, low, high = found
    return True if low > threshold else False if high <= threshold else None


def below(found: Found, threshold: float = 0.0) -> bool | None:
    """Whether the whole interval lies below the threshold; None if it holds it."""
    _, low, high = found
    return True if high < threshold else False if low >= threshold else None


def decide(met: Sequence[bool | None]) -> Verdict:
    """Holds if every condition is met, partly if some is; else fails if one is surely not met."""
    if all(met):
        return "holds" if met else "not decided"
    return "partly" if any(met) else "fails" if False in met else "not decided"


def all_above(found: Iterable[Found], threshold: float = 0.0) -> Verdict:
    """What is decided if every interval must lie above the threshold."""
    return decide([above(cell, threshold) for cell in found])


def all_below(found: Iterable[Found], threshold: float = 0.0) -> Verdict:
    """What is decided if every interval must lie below the threshold."""
    return decide([below(cell, threshold) for cell in found])


def all_of(met: Sequence[bool | None]) -> bool | None:
    """Whether every condition is met; one that surely is not refutes them all."""
    return True if all(met) else False if False in met else None


def any_of(met: Iterable[bool | None]) -> bool | None:
    """Whether some condition is met."""
    known = set(met)
    return True if True in known else None if None in known else False


def some_above(found: Iterable[Found], threshold: float = 0.0) -> Verdict:
    """What is decided if one interval above the threshold is enough; they must be wider for their number."""
    return decide([any_of(above(cell, threshold) for cell in found)])


def shared_level(conditions: int, level: float = 0.95) -> float:
    """Level of each interval such that all of so many hold their true means at once."""
    return 1 - (1 - level) / max(1, conditions)


def told(found: Found, form: str = "{:.3f}") -> str:
    """``0.950 (0.930 to 0.970)``."""
    mean, low, high = (form.format(value) for value in found)
    return f"{mean} ({low} to {high})"


def told_db(found: Found) -> str:
    """``+0.95 (+0.93 to +0.97)``."""
    return told(found, "{:+.2f}")
