"""Which descriptors, clusterer and number of groups forecast best?"""

from __future__ import annotations

from typing import Any

import numpy as np

from hyca_calib.search.replay import grouped
from studies.paper.chapter import Claim, Part, Table, Verdict
from studies.paper.effects import Ratio
from studies.paper.groups.subject import HORIZON, USUAL, Subject, members
from studies.paper.replay_setup import Array, Labels, ReplaySetup
from studies.paper.ruling import all_below, below, decide, listed, ruled, told

DESCENT = "cost descent"
DRAWS = 5
DEAR, HANDFUL = 0.02, 16


def choice(s: Subject) -> Part:
    """Held-out cost of every way of grouping, over the number of groups."""
    taps, per_prompt = _fitted(s)
    closed = _closed(s)
    own = s.judge(s.searched.fit(s.recorded.fit, s.ridge))
    numbers = {
        "fitted": taps,
        "closed_forms": closed,
        "counts": list(s.counts),
        "fitted_per_channel": float(own.mean()),
        **_compared(s, per_prompt, own),
    }
    tables = (_table(s, taps, float(own.mean())), _closed_table(s, closed))
    return Part(tables, numbers)


def descend(setup: ReplaySetup, gram: Array, gain: Array, labels: Labels, ridge: float, rounds: int = 30) -> Labels:
    """Move each channel to the group whose taps cost it least, refit, repeat: clustering on the cost itself.

    Args:
        gram: ``(channel, step, step)``.
        labels: where to start; groups may die out.
    """
    for _ in range(rounds):
        rows = setup.fit(grouped(gram, gain, members(labels)), ridge)
        costs = [setup.cost(gram, [taps[g : g + 1] for taps in rows]) for g in range(len(rows[0]))]
        better = np.stack(costs).argmin(0)
        if (better == np.unique(labels, return_inverse=True)[1]).all():
            break
        labels = better
    return labels


def random_labels(labels: Labels, seed: int) -> Labels:
    """Groups of the same sizes, drawn by chance."""
    return np.random.default_rng(seed).permutation(labels)


def hybrid_cost(fit: Array, judged: Array, labels: Labels) -> Array:
    """Held-out cost ``(prompt,)`` of the best closed form per group.

    Args:
        fit: weighted costs ``(solver, channel)``.
        judged: weighted costs ``(solver, prompt, channel)``.
    """
    total = np.zeros(judged.shape[1])
    for group in members(labels):
        total += judged[int(fit[:, group].sum(1).argmin())][:, group].sum(1)
    return total


def _fitted(s: Subject) -> tuple[dict[str, list[float]], dict[str, list[Array]]]:
    """Mean held-out cost for each number of groups by way of grouping, and the same per prompt."""
    per_prompt: dict[str, list[Array]] = {}
    for descriptors in s.descriptor_sets:
        for clusterer in s.clusterers:
            labels = [s.labels(descriptors, k, clusterer) for k in s.counts]
            per_prompt[f"{descriptors}, {clusterer}"] = [s.judge(s.group_rows(found)) for found in labels]
    starts = [s.labels(HORIZON, k) for k in s.counts]
    moved = [descend(s.searched, s.recorded.fit, s.gain, labels, s.ridge) for labels in starts]
    per_prompt[DESCENT] = [s.judge(s.group_rows(labels)) for labels in moved]
    per_prompt["random"] = [
        np.mean([s.judge(s.group_rows(random_labels(labels, s.seed + i))) for i in range(DRAWS)], axis=0)
        for labels in (s.labels(USUAL, k) for k in s.counts)
    ]
    return {name: [float(cost.mean()) for cost in costs] for name, costs in per_prompt.items()}, per_prompt


def _closed(s: Subject) -> dict[str, list[float]]:
    """Mean held-out cost of the best closed form per group, by descriptors, k-means; the last is per channel."""
    costs, found = s.closed_costs(s.searched), {}
    for descriptors in s.descriptor_sets:
        labels = [*(s.labels(descriptors, k) for k in s.counts), np.arange(s.channels)]
        found[descriptors] = [float(hybrid_cost(*costs, of).mean()) for of in labels]
    return found


def _table(s: Subject, taps: dict[str, list[float]], own: float) -> Table:
    caption = (
        "Held-out cost of fitted taps shared by groups, relative to taps per channel "
        f"(which cost {own:.4g}), by number of groups."
    )
    cells = {name: [cost / own for cost in costs] for name, costs in taps.items()}
    return Table.of(caption, ("grouping", *map(str, s.counts)), cells)


def _closed_table(s: Subject, closed: dict[str, list[float]]) -> Table:
    best = closed[USUAL][0]
    cells = {name: [cost / best for cost in costs] for name, costs in closed.items()}
    caption = f"The best closed form per group instead, relative to one closed form for all ({best:.4g})."
    return Table.of(caption, ("descriptors (k-means)", *map(str, s.counts), "per channel"), cells)


def _compared(s: Subject, per_prompt: dict[str, list[Array]], own: Array) -> dict[str, Any]:
    """Cost ratios that the claims are about, all with k-means."""
    horizon = per_prompt[_way(HORIZON)]
    others = [descriptors for descriptors in s.descriptor_sets if descriptors != HORIZON]
    return {
        "horizon_over": {
            str(k): {name: s.ratio(horizon[i], per_prompt[_way(name)][i]) for name in others}
            for i, k in enumerate(s.counts)
            if k > 1
        },
        "horizon_over_channels": {str(k): s.ratio(horizon[i], own) for i, k in enumerate(s.counts)},
    }


def _way(descriptors: str) -> str:
    return f"{descriptors}, kmeans"


def claims(found: dict[str, Any]) -> tuple[Claim, ...]:
    """Verdicts of the numbers of `choice`."""
    return (
        ruled(
            "Grouping by fitted taps at the schedule's horizons beats every descriptor of the trajectory (k-means, at "
            "every number of groups).",
            lambda: _beats_every_other(found["horizon_over"]),
        ),
        ruled(
            f"A handful of groups is enough ({HANDFUL} groups by fitted taps cost at most 2 % more than taps per "
            "channel).",
            lambda: _enough(found["horizon_over_channels"]),
        ),
    )


def _beats_every_other(cells: dict[str, dict[str, Ratio]]) -> tuple[Verdict, str]:
    nearest = {k: max(of.items(), key=lambda item: item[1][0]) for k, of in cells.items()}
    told_of = ", ".join(f"{k} groups {told(ratio)} ({name})" for k, (name, ratio) in nearest.items())
    return all_below((r for of in cells.values() for r in of.values()), 1), f"cost over the best other: {told_of}."


def _enough(cells: dict[str, Ratio]) -> tuple[Verdict, str]:
    handful = max((int(k) for k in cells if int(k) <= HANDFUL), default=0)
    verdict = decide([below(cells[str(handful)], 1 + DEAR)])
    return verdict, f"cost over taps per channel: {listed(cells, '{1} at {0}')}."
