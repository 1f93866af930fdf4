"""Taps per channel drawn towards their group's: does the number of groups still matter?"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from hyca_calib.clusters.base import Labels
from hyca_calib.search.replay import Array, grouped
from hyca_calib.search.settings import Settings
from hyca_calib.search.taps import TINY
from studies.paper.chapter import Numbers, Part, Rulings
from studies.paper.groups.subject import PAIRED, USUAL, Subject
from studies.paper.intervals import all_below, any_of, below, decide, shared_level, swing
from studies.paper.replay import FEW_TOKENS, RIDGES, Rows, members
from studies.paper.words import claims, of_each, table

GROUP, DRAWN, FREE = "group taps", "per channel, drawn to the group", "per channel, free"
POOLED = "per channel, group's data added"
USUAL_RIDGE = Settings().ridge
STRENGTHS = (*RIDGES, 1e-1, 1.0)
FLAT, CLOSE = 1.05, 1.02
HANDFUL = 16  # the search's default number of groups

Grams = Sequence[Array] | Array
Curves = dict[str, Array]
"""Held-out cost ``(number of groups, judged sample)`` by whose taps they are."""


def shrinkage(s: Subject) -> Part:
    """Group taps, taps per channel, and taps per channel drawn to their group's, for much and little data."""
    data = regimes(s)
    found = {name: _curves(s, fits, count) for name, (count, fits) in data.items()}
    curves = {name: {kind: costs.mean(1).tolist() for kind, costs in of.items()} for name, of in found.items()}
    ridges = {name: _by_ridge(s, fits) for name, (_, fits) in data.items()}
    compared = {name: _compared(s, of) for name, of in found.items()}
    numbers = {"curves": curves, "ridges": ridges, "counts": list(s.counts), "ridge": USUAL_RIDGE, "contests": compared}
    costs = {(name, kind): costs for name, of in curves.items() for kind, costs in of.items()}
    strengths = {(name, kind): costs.values() for name, kinds in ridges.items() for kind, costs in kinds.items()}
    facts = {"usual": USUAL, "least": min(RIDGES), "ridge": s.ridge, "drawn": USUAL_RIDGE, "columns": s.counts}
    tables = (
        table("grouping", "shrunk", costs, **facts),
        table("grouping", "strengths", strengths, columns=[f"{ridge:g}" for ridge in STRENGTHS]),
    )
    return Part(numbers, tables)


def regimes(s: Subject) -> dict[str, tuple[int, Grams]]:
    """Number of prompts and Gram matrices to fit on, from little data to all; several draws of each but the last."""
    prompts = s.recorded.prompts
    return {
        f"1 prompt, {FEW_TOKENS} tokens": (1, s.recorded.sparse[:PAIRED]),
        "1 prompt": (1, prompts[:PAIRED]),
        "4 prompts": (4, [prompts[i : i + 4].mean(0) for i in range(0, len(prompts) - 3, 4)]),
        "all prompts": (len(s.recorded.fit_tokens), [s.recorded.fit]),
    }


def pooled(gram: Array, gain: Array, labels: Labels, share: float) -> Array:
    """Each channel's Gram with its group's added as if it were `share` times as much data, both at unit energy."""

    def unit(grams: Array) -> Array:
        return np.asarray(grams / np.maximum(np.trace(grams, axis1=-2, axis2=-1), TINY)[:, None, None])

    groups = unit(grouped(gram, gain, members(labels)))
    return np.asarray(unit(gram) + share * groups[np.unique(labels, return_inverse=True)[1]])


def _curves(s: Subject, fits: Grams, prompts: int) -> Curves:
    """Mean over the draws; groups come from the same draw."""
    drawn = [[_costs(s, gram, k, prompts) for k in s.counts] for gram in fits]
    return {kind: np.mean([[costs[kind] for costs in of] for of in drawn], axis=0) for kind in drawn[0][0]}


def _costs(s: Subject, gram: Array, num_groups: int, prompts: int) -> Curves:
    """Of taps from `gram`, ``(judged sample,)``: of groups and of channels, free, pooled or drawn somewhere."""
    labels = s.labels(USUAL, num_groups, gram=gram)
    rows, added = s.group_rows(labels, gram), pooled(gram, s.gain, labels, 1 / prompts)
    taps = {
        GROUP: rows,
        DRAWN: s.searched.fit(gram, USUAL_RIDGE, rows),
        POOLED: s.searched.fit(added, s.ridge),
        FREE: s.searched.fit(gram, min(RIDGES)),
        "per channel, drawn to linear": s.searched.fit(gram, USUAL_RIDGE),
    }
    return {kind: s.judge(found) for kind, found in taps.items()}


def _by_ridge(s: Subject, fits: Grams) -> dict[str, dict[str, float]]:
    """Mean held-out cost of taps per channel over the ridge, drawn to linear extrapolation or to 16 groups."""
    groups = max(k for k in s.counts if k <= HANDFUL)
    rows = [s.group_rows(s.labels(USUAL, groups, gram=gram), gram) for gram in fits]

    def cost(ridge: float, priors: Sequence[Rows | None]) -> float:
        drawn = [s.searched.fit(gram, ridge, prior) for gram, prior in zip(fits, priors, strict=True)]
        return float(np.mean([s.judge(taps).mean() for taps in drawn]))

    return {
        "to linear": {f"{ridge:g}": cost(ridge, [None] * len(rows)) for ridge in STRENGTHS},
        "to the group": {f"{ridge:g}": cost(ridge, rows) for ridge in STRENGTHS},
    }


def _compared(s: Subject, curves: Curves) -> dict[str, Any]:
    """Cost ratios that the claims are about, of one regime."""
    pure, drawn, mixed, free = (curves[name] for name in (GROUP, DRAWN, POOLED, FREE))
    usual = max(i for i, k in enumerate(s.counts) if k <= HANDFUL)
    pairs = [(one, limit) for one in drawn for limit in (*pure, free[0])]
    worst = max(pairs, key=lambda pair: pair[0].sum() / pair[1].sum())
    return {
        "swing": swing(drawn, s.seed, s.prompts),
        "swing_of_groups": float(pure.sum(1).max() / pure.sum(1).min()),
        "over_limits": [
            s.ratio(*worst)[0],
            max(s.ratio(*pair, shared_level(len(pairs)))[1] for pair in pairs),
            max(s.ratio(*pair)[2] for pair in pairs),
        ],
        "added_over_drawn": s.ratio(mixed[usual], drawn[usual]),
        "groups_over_free": {
            str(k): s.ratio(pure[i], free[i], shared_level(len(s.counts))) for i, k in enumerate(s.counts)
        },
    }


def rulings(found: Numbers) -> Rulings:
    """By the numbers of `shrinkage`."""
    contests = found["contests"]
    free = of_each(contests, "groups_over_free")
    verdicts = {
        "swing": all_below(of_each(contests, "swing").values(), FLAT),
        "limits": all_below(of_each(contests, "over_limits").values(), CLOSE),
        "added": all_below(of_each(contests, "added_over_drawn").values(), 1),
        "overfitting": decide([any_of(below(ratio, 1) for ratio in of.values()) for of in free.values()]),
    }
    return claims("grouping", verdicts, contests=contests, handful=HANDFUL)
