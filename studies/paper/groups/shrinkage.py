"""Taps per channel drawn towards their group's: does the number of groups still matter?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hyca_calib.search.replay import grouped
from studies.paper.chapter import Claim, Part, Table, Verdict
from studies.paper.effects import Ratio, swing
from studies.paper.groups.subject import RIDGES, USUAL, Subject, members
from studies.paper.replay_setup import TINY, Array
from studies.paper.ruling import all_below, any_of, below, decide, listed, ruled, shared_level, told
from studies.paper.stored import FEW_TOKENS

GROUP, DRAWN, FREE = "group taps", "per channel, drawn to the group", "per channel, free"
POOLED = "per channel, group's data added"
STRENGTHS = (*RIDGES, 1e-1, 1.0)
FLAT = 1.05
CLOSE = 1.02
HANDFUL = 16  # the search's default number of groups


def shrinkage(s: Subject) -> Part:
    """Group taps, taps per channel, and taps per channel drawn to their group's, for much and little data."""
    found = {name: _curves(s, fits, count) for name, (count, fits) in regimes(s).items()}
    curves = {name: {kind: costs.mean(1).tolist() for kind, costs in of.items()} for name, of in found.items()}
    ridges = {name: _by_ridge(s, fits) for name, (_, fits) in regimes(s).items()}
    numbers = {"curves": curves, "ridges": ridges, "counts": list(s.counts), "ridge": s.usual_ridge}
    numbers["contests"] = {name: _compared(s, of) for name, of in found.items()}
    return Part((_table(s, curves), _ridge_table(ridges)), numbers)


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


def _curves(s: Subject, fits: Sequence[Array], prompts: int) -> dict[str, Array]:
    """Held-out cost ``(number of groups, judged sample)``, mean over the draws; groups come from the same draw."""
    shared = np.mean([[_group_costs(s, gram, k, prompts) for k in s.counts] for gram in fits], axis=0)
    free, linear = np.mean([_own_costs(s, gram) for gram in fits], axis=0)
    pure, drawn, mixed = shared.swapaxes(0, 1)
    flat = (len(s.counts), 1)
    return {
        GROUP: pure,
        DRAWN: drawn,
        POOLED: mixed,
        FREE: np.tile(free, flat),
        "per channel, drawn to linear": np.tile(linear, flat),
    }


def pooled(gram: Array, gain: Array, labels: NDArray[np.int64], share: float) -> Array:
    """Each channel's Gram with its group's added as if it were `share` times as much data, both at unit energy."""

    def unit(grams: Array) -> Array:
        return np.asarray(grams / np.maximum(np.trace(grams, axis1=-2, axis2=-1), TINY)[:, None, None])

    groups = unit(grouped(gram, gain, members(labels)))
    return np.asarray(unit(gram) + share * groups[np.unique(labels, return_inverse=True)[1]])


def _group_costs(s: Subject, gram: Array, num_groups: int, prompts: int) -> Array:
    """Of taps of groups, of channels drawn to them, of channels on pooled data, all from `gram`; ``(3, sample)``."""
    labels = s.labels(USUAL, num_groups, gram=gram)
    rows = s.group_rows(labels, gram)
    drawn = s.searched.fit(gram, s.usual_ridge, rows)
    mixed = s.searched.fit(pooled(gram, s.gain, labels, 1 / prompts), s.ridge)
    return np.stack([s.judge(found) for found in (rows, drawn, mixed)])


def _own_costs(s: Subject, gram: Array) -> Array:
    """Of taps per channel with next to no ridge, and drawn to linear extrapolation: ``(2, sample)``."""
    return np.stack([s.judge(s.searched.fit(gram, ridge)) for ridge in (min(RIDGES), s.usual_ridge)])


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


def _compared(s: Subject, curves: dict[str, Array]) -> dict[str, Any]:
    """Cost ratios that the claims are about, of one regime."""
    pure, drawn, mixed, free = (curves[name] for name in (GROUP, DRAWN, POOLED, FREE))
    usual = max(i for i, k in enumerate(s.counts) if k <= HANDFUL)
    limits = [*pure, free[0]]
    corrected = shared_level(len(drawn) * len(limits))
    worst = max(((one, limit) for one in drawn for limit in limits), key=lambda pair: pair[0].sum() / pair[1].sum())
    return {
        "swing": swing(drawn, s.seed, s.prompts),
        "swing_of_groups": float(pure.sum(1).max() / pure.sum(1).min()),
        "over_limits": [
            s.ratio(*worst)[0],
            max(s.ratio(one, limit, corrected)[1] for one in drawn for limit in limits),
            max(s.ratio(one, limit)[2] for one in drawn for limit in limits),
        ],
        "added_over_drawn": s.ratio(mixed[usual], drawn[usual]),
        "groups_over_free": {
            str(k): s.ratio(pure[i], free[i], shared_level(len(s.counts))) for i, k in enumerate(s.counts)
        },
    }


def claims(found: dict[str, Any]) -> tuple[Claim, ...]:
    """Verdicts of the numbers of `shrinkage`."""

    def at(key: str) -> dict[str, Any]:
        return {name: cells[key] for name, cells in found["contests"].items()}

    return (
        ruled(
            "Drawn to their group's taps, channels no longer care how many groups there are (cost varies by at most "
            "5 % over all numbers).",
            lambda: (
                all_below(at("swing").values(), FLAT),
                "largest over smallest cost, drawn (surely at least, at most) / group taps: "
                + ", ".join(f"{n} {told(swing)} / {at('swing_of_groups')[n]:.3f}" for n, swing in at("swing").items())
                + ".",
            ),
        ),
        ruled(
            "Hierarchical ridge is never worse than the better of its limits (within 2 % of every number of groups "
            "and of free taps, whatever the number of groups).",
            lambda: (
                all_below(at("over_limits").values(), CLOSE),
                f"at worst (surely at least, at most) {listed(at('over_limits'), '{1} ({0})')}.",
            ),
        ),
        ruled(
            f"Adding the group's data is a better prior than drawing to its taps (with {HANDFUL} groups, however much "
            "is fitted on).",
            lambda: (
                all_below(at("added_over_drawn").values(), 1),
                f"added over drawn: {listed(at('added_over_drawn'))}.",
            ),
        ),
        ruled(
            "Grouping protects from overfitting (some number of groups beats free taps per channel, corrected for the "
            "numbers tried; however much is fitted on).",
            lambda: _protects(at("groups_over_free")),
        ),
    )


def _protects(cells: dict[str, dict[str, Ratio]]) -> tuple[Verdict, str]:
    best = {name: min(ratios.items(), key=lambda item: item[1][0]) for name, ratios in cells.items()}
    told_of = ", ".join(f"{name} {told(ratio)} at {k}" for name, (k, ratio) in best.items())
    met = [any_of(below(ratio, 1) for ratio in ratios.values()) for ratios in cells.values()]
    return decide(met), f"best group taps over free taps per channel: {told_of}."


def _table(s: Subject, curves: dict[str, dict[str, list[float]]]) -> Table:
    cells = {(name, kind): costs for name, curve in curves.items() for kind, costs in curve.items()}
    caption = (
        f"Held-out cost by number of groups (k-means, {USUAL}), fitted on little data and on much. Free taps have "
        f"ridge {min(RIDGES):g}, group taps {s.ridge:g}, drawn ones {s.usual_ridge:g}; of the group's data one "
        "prompt's worth is added to the channel's own."
    )
    return Table.of(caption, ("fitted on", "taps", *map(str, s.counts)), cells)


def _ridge_table(ridges: dict[str, dict[str, dict[str, float]]]) -> Table:
    cells = {(name, kind): costs.values() for name, kinds in ridges.items() for kind, costs in kinds.items()}
    caption = "Held-out cost of taps per channel by strength of the ridge, and what it draws to."
    return Table.of(caption, ("fitted on", "drawn", *(f"{ridge:g}" for ridge in STRENGTHS)), cells)
