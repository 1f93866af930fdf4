"""Does a large sum of absolute weights foretell a bad forecast?"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.stats import rankdata

from hyca_calib.search.replay import Multistep
from studies.paper.chapter import Claim, Part, Table
from studies.paper.effects import Ratio, quantiles
from studies.paper.formulas.dataset import CLOSED, WAYS, Dataset, Use, closed_rows, noise_gain
from studies.paper.formulas.fitting import USUAL, tap_costs, tap_rows
from studies.paper.formulas.pool import twins
from studies.paper.replay_setup import TINY, Array
from studies.paper.ruling import all_above, listed, ruled


def noise(s: Dataset) -> Part:
    """Rank correlation over closed forms of noise gain and cost, by interval, axis and use."""
    labels = [names[0] for names in twins(s) if names[0] in CLOSED]
    found: dict[tuple[str, str], list[Ratio]] = {
        (axis, way): [_correlation(s, labels, n, axis, way) for n in s.intervals] for axis in s.axes for way in WAYS
    }
    taps = _taps(s)
    numbers = {
        "rank_correlation": {", ".join(key): ratios for key, ratios in found.items()},
        "solvers": labels,
        "fitted": taps,
        "intervals": list(s.intervals),
    }
    return Part((_table(s, found, len(labels)),), numbers)


def rank_correlation(one: Array, other: Array) -> Array:
    """Spearman's, along the last axis, equal values sharing their rank; 0 if all are equal."""
    ranks = (rankdata(x, axis=-1) for x in (one, other))
    a, b = (rank - rank.mean(-1, keepdims=True) for rank in ranks)
    return np.asarray((a * b).sum(-1) / np.sqrt(np.maximum((a**2).sum(-1) * (b**2).sum(-1), TINY)))


def _correlation(s: Dataset, labels: list[str], interval: int, axis: str, way: Multistep) -> Ratio:
    """With 95 % bootstrap interval over the solvers."""
    setup, i = s.setup(interval, axis), s.intervals.index(interval)
    gains = np.array([noise_gain(closed_rows(CLOSED[label], setup, way)) for label in labels])
    costs = np.array([s.costs[Use(label, axis, way)][i].sum() for label in labels])
    draws = np.random.default_rng(s.seed).integers(0, len(labels), (2000, len(labels)))
    low, high = quantiles(rank_correlation(gains[draws], costs[draws]), len(labels))
    return float(rank_correlation(gains, costs)), low, high


def _taps(s: Dataset) -> dict[str, list[float]]:
    """Of one row of fitted taps at the longest interval, by ridge: sum of absolute weights, and cost over hold."""
    hold = s.costs[Use("hold", s.axes[0])][-1].sum()
    return {
        f"{ridge:g}": [
            noise_gain(tap_rows(s, s.one, s.intervals[-1], USUAL.depth, ridge)),
            float(tap_costs(s, s.one, USUAL.depth, ridge)[-1].sum() / hold),
        ]
        for ridge in (s.ridge, USUAL.ridge)
    }


def _table(s: Dataset, found: dict[tuple[str, str], list[Ratio]], count: int) -> Table:
    caption = (
        f"Rank correlation over {count} different closed forms between the mean sum of absolute weights on the "
        "schedule and the held-out cost, with 95 % bootstrap interval over the solvers."
    )
    return s.table(caption, ("axis", "use"), found)


def claims(found: dict[str, Any]) -> tuple[Claim, ...]:
    """Verdicts of the numbers of `noise`."""
    cells, intervals = found["rank_correlation"], found["intervals"]
    return (
        ruled(
            "A large sum of absolute weights foretells a high cost on long gaps (rank correlation above 0, interval "
            "and all, in the longer half of the intervals, on every axis and in either use).",
            lambda: (
                all_above(ratio for ratios in cells.values() for ratio in ratios[len(intervals) // 2 :]),
                f"at N = {intervals[-1]} {listed({n: of[-1] for n, of in cells.items()}, between='; ')}; one row of "
                "fitted taps "
                + ", ".join(
                    f"at ridge {ridge} has sum {gain:.1f} and costs {cost:.3f} of hold"
                    for ridge, (gain, cost) in found["fitted"].items()
                )
                + ". An offline replay shows how a formula errs, not how noise of the accelerated run comes out.",
            ),
        ),
    )
