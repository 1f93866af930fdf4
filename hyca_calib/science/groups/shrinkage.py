"""Taps per channel drawn towards their group's: does the number of groups still matter?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hyca_calib.replay import grouped
from hyca_calib.science.chapter import Claim, Table
from hyca_calib.science.groups.arena import TINY
from hyca_calib.science.groups.stored import FEW_TOKENS
from hyca_calib.science.groups.subject import RIDGES, USUAL, Part, Subject, members, row, verdict

__all__ = ["DRAWN", "GROUP", "POOLED", "pooled", "regimes", "shrinkage"]

Array = NDArray[np.float64]

GROUP, DRAWN, FREE = "group taps", "per channel, drawn to the group", "per channel, free"
POOLED = "per channel, group's data added"
STRENGTHS = (*RIDGES, 1e-1, 1.0)
FLAT = 1.05
CLOSE = 1.02


def shrinkage(s: Subject) -> Part:
    """Group taps, taps per channel, and taps per channel drawn to their group's, for much and little data."""
    curves = {name: _curves(s, fits, count) for name, (count, fits) in regimes(s).items()}
    ridges = {name: _by_ridge(s, fits) for name, (_, fits) in regimes(s).items()}
    numbers = {"curves": curves, "ridges": ridges, "counts": list(s.counts), "ridge": s.usual_ridge}
    return Part((), (_table(s, curves), _ridge_table(ridges)), _claims(s, curves), numbers)


def regimes(s: Subject) -> dict[str, tuple[int, list[Array]]]:
    """Number of prompts and Gram matrices to fit on, from little data to all; several draws of each but the last."""
    prompts, sparse = s.recorded.prompts, s.recorded.sparse
    draws = range(min(len(prompts), 8))
    fours = [prompts[i : i + 4].mean(0) for i in range(0, len(prompts) - 3, 4)]
    return {
        f"1 prompt, {FEW_TOKENS} tokens": (1, [sparse[i] for i in draws]),
        "1 prompt": (1, [prompts[i] for i in draws]),
        "4 prompts": (4, fours),
        "all prompts": (len(s.recorded.fit_tokens), [s.recorded.fit]),
    }


def _curves(s: Subject, fits: Sequence[Array], prompts: int) -> dict[str, list[float]]:
    """Mean held-out cost over the draws, by number of groups; groups always come from the same draw."""
    shared = [np.mean([_group_costs(s, gram, k, prompts) for gram in fits], axis=0) for k in s.counts]
    own = np.mean([_own_costs(s, gram) for gram in fits], axis=0)
    pure, drawn, pooled = np.transpose(shared).tolist()
    free, linear = (own[:, None] * np.ones(len(s.counts))).tolist()
    return {GROUP: pure, DRAWN: drawn, POOLED: pooled, FREE: free, "per channel, drawn to linear": linear}


def pooled(gram: Array, gain: Array, labels: NDArray[np.int64], share: float) -> Array:
    """Each channel's Gram with its group's added as if it were `share` times as much data, both at unit energy."""

    def unit(grams: Array) -> Array:
        return np.asarray(grams / np.maximum(np.trace(grams, axis1=-2, axis2=-1), TINY)[:, None, None])

    groups = unit(grouped(gram, gain, members(labels)))
    return np.asarray(unit(gram) + share * groups[np.unique(labels, return_inverse=True)[1]])


def _group_costs(s: Subject, gram: Array, num_groups: int, prompts: int) -> tuple[float, float, float]:
    """Taps of groups, taps of channels drawn to them, and taps of channels on pooled data; all from `gram`."""
    labels = s.labels(USUAL, num_groups, gram=gram)
    rows = s.group_rows(labels, gram)
    drawn = s.searched.fit(gram, s.usual_ridge, rows)
    mixed = s.searched.fit(pooled(gram, s.gain, labels, 1 / prompts), s.ridge)
    return float(s.judge(rows).mean()), float(s.judge(drawn).mean()), float(s.judge(mixed).mean())


def _own_costs(s: Subject, gram: Array) -> tuple[float, float]:
    """Taps per channel with next to no ridge, and drawn to linear extrapolation."""
    free, linear = (s.searched.fit(gram, ridge) for ridge in (min(RIDGES), s.usual_ridge))
    return float(s.judge(free).mean()), float(s.judge(linear).mean())


def _by_ridge(s: Subject, fits: Sequence[Array]) -> dict[str, dict[str, float]]:
    """Mean held-out cost of taps per channel over the ridge, drawn to linear extrapolation or to 16 groups."""
    groups = max(k for k in s.counts if k <= 16)
    rows = [s.group_rows(s.labels(USUAL, groups, gram=gram), gram) for gram in fits]
    judged: dict[str, dict[str, float]] = {"to linear": {}, "to the group": {}}
    for ridge in STRENGTHS:
        linear = [s.judge(s.searched.fit(gram, ridge)).mean() for gram in fits]
        group = [s.judge(s.searched.fit(gram, ridge, prior)).mean() for gram, prior in zip(fits, rows, strict=True)]
        judged["to linear"][f"{ridge:g}"] = float(np.mean(linear))
        judged["to the group"][f"{ridge:g}"] = float(np.mean(group))
    return judged


def _claims(s: Subject, curves: dict[str, dict[str, list[float]]]) -> tuple[Claim, ...]:
    def swing(costs: list[float]) -> float:
        return max(costs) / min(costs)

    kept = {name: curve[DRAWN] for name, curve in curves.items()}
    pure = {name: curve[GROUP] for name, curve in curves.items()}
    free = {name: curve[FREE][0] for name, curve in curves.items()}
    worst = {name: max(kept[name]) / min(*pure[name], free[name]) for name in curves}
    best = {name: int(np.argmin(costs)) for name, costs in pure.items()}
    return (
        Claim(
            "Drawn to their group's taps, channels no longer care how many groups there are (cost varies by at most "
            "5 % over all numbers).",
            verdict([swing(costs) <= FLAT for costs in kept.values()]),
            "largest over smallest cost, drawn / group taps: "
            + ", ".join(f"{name} {swing(kept[name]):.3f} / {swing(pure[name]):.3f}" for name in curves)
            + ".",
        ),
        Claim(
            "Hierarchical ridge is never worse than the better of its limits (within 2 % of the best number of groups "
            "and of free taps, whatever the number of groups).",
            verdict([value <= CLOSE for value in worst.values()]),
            "at worst " + ", ".join(f"{value:.3f} ({name})" for name, value in worst.items()) + ".",
        ),
        Claim(
            "Adding the group's data is a better prior than drawing to its taps (at the best number of groups).",
            verdict([min(curve[POOLED]) <= min(curve[DRAWN]) for curve in curves.values()]),
            "added over drawn: "
            + ", ".join(f"{name} {min(curve[POOLED]) / min(curve[DRAWN]):.3f}" for name, curve in curves.items())
            + ".",
        ),
        Claim(
            "Grouping protects from overfitting (some number of groups beats free taps per channel).",
            verdict([min(pure[name]) < free[name] for name in curves]),
            "best group taps over free taps per channel: "
            + ", ".join(f"{name} {min(pure[name]) / free[name]:.3f} at {s.counts[best[name]]}" for name in curves)
            + ".",
        ),
    )


def _table(s: Subject, curves: dict[str, dict[str, list[float]]]) -> Table:
    rows = tuple(row(name, kind, *costs) for name, curve in curves.items() for kind, costs in curve.items())
    caption = (
        f"Held-out cost by number of groups (k-means, {USUAL}), fitted on little data and on much. Free taps have "
        f"ridge {min(RIDGES):g}, group taps {s.ridge:g}, drawn ones {s.usual_ridge:g}; of the group's data one "
        "prompt's worth is added to the channel's own."
    )
    return Table(caption, ("fitted on", "taps", *map(str, s.counts)), rows)


def _ridge_table(ridges: dict[str, dict[str, dict[str, float]]]) -> Table:
    rows = tuple(row(name, kind, *costs.values()) for name, kinds in ridges.items() for kind, costs in kinds.items())
    caption = "Held-out cost of taps per channel by strength of the ridge, and what it draws to."
    return Table(caption, ("fitted on", "drawn", *(f"{ridge:g}" for ridge in STRENGTHS)), rows)
