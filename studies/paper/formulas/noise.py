"""Many steps with a one-step formula, straight to each or on its own forecasts; and does noise foretell the cost?"""

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from hyca_calib.search.replay import Array, Multistep
from hyca_calib.search.taps import TINY
from studies.paper.chapter import Cell, Numbers, Part, Rulings
from studies.paper.formulas.dataset import CLOSED, WAYS, Dataset, Use, noise_gain
from studies.paper.formulas.fitting import USUAL, tap_costs, tap_rows
from studies.paper.formulas.pool import twins
from studies.paper.intervals import Ratio, above, all_above, below, bootstrapped, told
from studies.paper.words import claims, of_each, paragraphs, table


def multistep(s: Dataset) -> Part:
    """Cost and noise of recursive over anchored use, on every axis."""
    same = [label for label in CLOSED if not _differs(s, label)]
    found, noise, tables = {}, {}, []
    for axis in s.axes:
        uses = {name: [Use(name, axis, way) for way in WAYS] for name in CLOSED if name not in same}
        found[axis] = {name: s.ratios(s.costs[repeated], s.costs[once]) for name, (once, repeated) in uses.items()}
        noise[axis] = {name: [noise_gain(s.closed[use][-1]) for use in of] for name, of in uses.items()}
        cells: dict[str, list[Cell]] = {name: [*map(told, of), *noise[axis][name]] for name, of in found[axis].items()}
        tables.append(table("solvers", "recursion", cells, axis=axis, columns=s.head))
    numbers = {"recursive_over_anchored": found, "noise_at_longest": noise, "same": same}
    numbers["intervals"] = list(s.intervals)
    return Part(numbers, tuple(tables), paragraphs("solvers", "same", same=same))


def _differs(s: Dataset, label: str) -> bool:
    """Whether the two uses have other weights on any axis, at any interval."""
    uses = ([s.closed[Use(label, axis, way)] for way in WAYS] for axis in s.axes)
    pairs = (pair for use in uses for rows in zip(*use, strict=True) for pair in zip(*rows, strict=True))
    return not all(np.allclose(anchored, recursive, rtol=1e-6, atol=1e-6) for anchored, recursive in pairs)


def rulings(found: Numbers) -> Rulings:
    """By the numbers of `multistep`."""
    longest = {axis: of_each(of, -1) for axis, of in found["recursive_over_anchored"].items()}
    verdict = all_above((ratio for of in longest.values() for ratio in of.values()), 1)
    sides = {axis: _sides(of, found["noise_at_longest"][axis]) for axis, of in longest.items()}
    return claims("solvers", {"recursive": verdict}, **found, sides=sides)


def _sides(ratios: dict[str, Ratio], noise: dict[str, list[float]]) -> dict[str, Any]:
    """Solvers that recursive use makes dearer, and cheaper, and how many of the former it makes less noisy."""

    def named(labels: list[str]) -> str:
        return ", ".join(f"{label} {ratios[label][0]:.2f}" for label in labels) or "none"

    dearer, cheaper = ([label for label, ratio in ratios.items() if side(ratio, 1)] for side in (above, below))
    quieter = sum(noise[label][1] < noise[label][0] for label in dearer)
    return {"dearer": named(dearer), "cheaper": named(cheaper), "many": len(dearer), "quieter": quieter}


def noise(s: Dataset) -> Part:
    """Rank correlation over closed forms of noise gain and cost, by interval, axis and use."""
    labels = [names[0] for names in twins(s) if names[0] in CLOSED]
    found = {(axis, way): _correlations(s, labels, axis, way) for axis in s.axes for way in WAYS}
    hold = s.costs[Use("hold", s.axes[0])][-1].sum()

    def fitted(ridge: float) -> list[float]:
        """One row of taps at the longest interval: sum of absolute weights, and cost over hold."""
        rows, costs = tap_rows(s, s.one, s.intervals[-1], USUAL.depth, ridge), tap_costs(s, s.one, USUAL.depth, ridge)
        return [noise_gain(rows), float(costs[-1].sum() / hold)]

    numbers = {
        "rank_correlation": {", ".join(key): ratios for key, ratios in found.items()},
        "solvers": labels,
        "fitted": {f"{ridge:g}": fitted(ridge) for ridge in (s.ridge, USUAL.ridge)},
        "intervals": list(s.intervals),
    }
    return Part(numbers, (s.table("correlations", found, solvers=len(labels)),))


def rank_correlation(one: Array, other: Array) -> Array:
    """Spearman's, along the last axis, equal values sharing their rank; 0 if all are equal."""
    ranks = (rankdata(x, axis=-1) for x in (one, other))
    a, b = (rank - rank.mean(-1, keepdims=True) for rank in ranks)
    return np.asarray((a * b).sum(-1) / np.sqrt(np.maximum((a**2).sum(-1) * (b**2).sum(-1), TINY)))


def _correlations(s: Dataset, labels: list[str], axis: str, way: Multistep) -> list[Ratio]:
    """At each interval, with 95 % bootstrap interval over the solvers."""
    uses = [Use(label, axis, way) for label in labels]
    gains = [np.array([noise_gain(rows) for rows in of]) for of in zip(*(s.closed[use] for use in uses), strict=True)]
    costs = np.stack([s.costs[use].sum(1) for use in uses], axis=1)

    def correlation(places: NDArray[np.int64], gain: Array, cost: Array) -> Array:
        return rank_correlation(gain[places], cost[places])

    pairs = zip(gains, costs, strict=True)
    return [bootstrapped(partial(correlation, gain=a, cost=b), len(labels), s.seed) for a, b in pairs]


def noise_rulings(found: Numbers) -> Rulings:
    """By the numbers of `noise`."""
    half = len(found["intervals"]) // 2
    verdict = all_above(ratio for ratios in found["rank_correlation"].values() for ratio in ratios[half:])
    return claims("solvers", {"noise": verdict}, **found)
