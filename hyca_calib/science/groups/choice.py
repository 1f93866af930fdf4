"""Which descriptors, clusterer and number of groups forecast best?"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hyca_calib.replay import grouped
from hyca_calib.science.chapter import Claim, Table
from hyca_calib.science.groups.arena import Arena
from hyca_calib.science.groups.subject import HORIZON, USUAL, Part, Subject, members, ratio, row, told, verdict

__all__ = ["DESCENT", "choice", "descend", "hybrid_cost", "random_labels"]

Array = NDArray[np.float64]
Labels = NDArray[np.int64]

DESCENT = "cost descent"
DRAWS = 5
DEAR = 0.02


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
    }
    tables = (_table(s, taps, float(own.mean())), _closed_table(s, closed))
    return Part((), tables, _claims(s, taps, per_prompt, own), numbers)


def descend(arena: Arena, gram: Array, gain: Array, labels: Labels, ridge: float, rounds: int = 30) -> Labels:
    """Move each channel to the group whose taps cost it least, refit, repeat: clustering on the cost itself.

    Args:
        gram: ``(channel, step, step)``.
        labels: where to start; groups may die out.
    """
    for _ in range(rounds):
        rows = arena.fit(grouped(gram, gain, members(labels)), ridge)
        costs = [arena.cost(gram, [taps[g : g + 1] for taps in rows]) for g in range(len(rows[0]))]
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
    fit = s.searched.closed_costs(s.recorded.fit).sum(1) * s.gain
    judged = s.searched.closed_costs(s.recorded.judged).sum(1) * s.gain
    found = {}
    for descriptors in s.descriptor_sets:
        labels = [*(s.labels(descriptors, k) for k in s.counts), np.arange(s.channels)]
        found[descriptors] = [float(hybrid_cost(fit, judged, of).mean()) for of in labels]
    return found


def _table(s: Subject, taps: dict[str, list[float]], own: float) -> Table:
    rows = tuple(row(name, *(cost / own for cost in costs)) for name, costs in taps.items())
    caption = (
        "Held-out cost of fitted taps shared by groups, relative to taps per channel "
        f"(which cost {own:.4g}), by number of groups."
    )
    return Table(caption, ("grouping", *map(str, s.counts)), rows)


def _closed_table(s: Subject, closed: dict[str, list[float]]) -> Table:
    best = closed[USUAL][0]
    rows = tuple(row(name, *(cost / best for cost in costs)) for name, costs in closed.items())
    caption = f"The best closed form per group instead, relative to one closed form for all ({best:.4g})."
    return Table(caption, ("descriptors (k-means)", *map(str, s.counts), "per channel"), rows)


def _claims(
    s: Subject, taps: dict[str, list[float]], per_prompt: dict[str, list[Array]], own: Array
) -> tuple[Claim, ...]:
    at = [i for i, k in enumerate(s.counts) if k > 1]
    described = [name for name in taps if name not in (DESCENT, "random") and not name.startswith(HORIZON)]
    horizon = [min(taps[name][i] for name in taps if name.startswith(HORIZON)) for i in at]
    other = [min((taps[name][i], name) for name in described) for i in at]
    last = per_prompt[f"{USUAL}, kmeans"][-1]
    margin = ratio(own, last, s.seed)
    return (
        Claim(
            "Grouping by fitted taps at the schedule's horizons beats every descriptor of the trajectory.",
            verdict([mine < theirs for mine, (theirs, _) in zip(horizon, other, strict=True)]),
            "cost over the best other: "
            + ", ".join(
                f"{s.counts[i]} groups {mine / theirs:.3f} ({name})"
                for i, mine, (theirs, name) in zip(at, horizon, other, strict=True)
            )
            + ".",
        ),
        Claim(
            "A handful of groups is enough (16 groups at most within 2 % of taps per channel).",
            verdict([min(costs[i] for costs in taps.values()) <= (1 + DEAR) * own.mean() for i in at[:4]]),
            "the best grouping costs "
            + ", ".join(f"{min(c[i] for c in taps.values()) / own.mean():.3f} at {s.counts[i]}" for i in at)
            + f" times taps per channel; taps per channel over {s.counts[-1]} groups of {USUAL}: {told(margin)}.",
        ),
    )
