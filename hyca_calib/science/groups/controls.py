"""Is it the dimensions that matter? Groups of tokens, and groups drawn by chance, on the same terms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

import numpy as np
from numpy.typing import NDArray

from hyca_calib.clusters.stability import labels_by, summary
from hyca_calib.replay import grouped
from hyca_calib.science.chapter import Claim, Table
from hyca_calib.science.groups.arena import Rows, by_label
from hyca_calib.science.groups.choice import DRAWS, random_labels
from hyca_calib.science.groups.subject import (
    HORIZON,
    USUAL,
    Part,
    Subject,
    describe,
    members,
    ratio,
    row,
    told,
    verdict,
)

__all__ = ["Outcome", "controls", "token_outcome"]

Array = NDArray[np.float64]
Labels = NDArray[np.int64]
Outcome = tuple[Array, Array]
"""Held-out replay cost and relative forecast error of each judged prompt, ``(prompt,)``."""

TOKENS = ("tokens by position", "tokens by position, horizon taps", "tokens by content, horizon taps")
PAIRED = 8


def controls(s: Subject) -> Part:
    """Every way of grouping at the same numbers of groups; then whether assignments last."""
    found = {k: {name: way(k) for name, way in _ways(s).items()} for k in s.few_counts}
    one = _channel_outcome(s, np.zeros(s.channels, dtype=np.int64))
    own = _channel_outcome(s, np.arange(s.channels))
    each = token_outcome(s, np.arange(s.recorded.fit_tokens.shape[1]))
    lasting = _lasting(s)
    limits = {"one group": one, "every channel": own, "every token position": each}
    numbers = {
        "cost": {str(k): {name: float(out[0].mean()) for name, out in ways.items()} for k, ways in found.items()},
        "error": {str(k): {name: float(out[1].mean()) for name, out in ways.items()} for k, ways in found.items()},
        "limits": {name: [float(out[0].mean()), float(out[1].mean())] for name, out in limits.items()},
        "agreement_across_prompts": lasting,
    }
    tables = (_table(found, limits), _lasting_table(lasting))
    return Part((_text(),), tables, _claims(s, found, lasting), numbers)


def token_outcome(s: Subject, labels: Labels) -> Outcome:
    """Taps shared by groups of token positions, ``(token,)``."""
    gram = s.recorded.fit_tokens.mean(0)
    rows = s.searched.fit(grouped(gram, np.ones(len(gram)), members(labels)), s.ridge)
    return _judge_tokens(s, by_label(rows, np.unique(labels, return_inverse=True)[1]))


def _ways(s: Subject) -> dict[str, Callable[[int], Outcome]]:
    def position(descriptors: str, k: int) -> Labels:
        gram = s.recorded.fit_tokens.mean(0)
        return labels_by("kmeans", describe(s.searched, descriptors, gram, s.ridge), k, s.seed)

    def mean(outcomes: list[Outcome]) -> Outcome:
        cost, error = np.mean(outcomes, axis=0)
        return cost, error

    return {
        "dimensions": lambda k: _channel_outcome(s, s.labels(USUAL, k)),
        "dimensions, horizon taps": lambda k: _channel_outcome(s, s.labels(HORIZON, k)),
        "dimensions by chance, same sizes": lambda k: mean(
            [_channel_outcome(s, random_labels(s.labels(USUAL, k), s.seed + i)) for i in range(DRAWS)]
        ),
        "dimensions in equal blocks": lambda k: _channel_outcome(s, np.arange(s.channels) * k // s.channels),
        TOKENS[0]: lambda k: token_outcome(s, position(USUAL, k)),
        TOKENS[1]: lambda k: token_outcome(s, position(HORIZON, k)),
        TOKENS[2]: lambda k: _content_outcome(s, k),
        "tokens by chance, same sizes": lambda k: mean(
            [token_outcome(s, random_labels(position(USUAL, k), s.seed + i)) for i in range(DRAWS)]
        ),
    }


def _channel_outcome(s: Subject, labels: Labels) -> Outcome:
    rows, judged = s.group_rows(labels), s.recorded.judged
    error = s.searched.error(judged, rows) @ s.gain / (s.searched.energy(judged) @ s.gain)
    return s.judge(rows), error


def _judge_tokens(s: Subject, rows: Rows) -> Outcome:
    judged = s.recorded.judged_tokens
    error = s.searched.error(judged, rows).sum(1) / s.searched.energy(judged).sum(1)
    return s.searched.cost(judged, rows).sum(1), error


def _content_outcome(s: Subject, num_groups: int) -> Outcome:
    """Every token of every prompt is assigned by its own whole trajectory: it sees the future, so this bounds what
    token groups could do."""
    fit, judged = s.recorded.fit_tokens, s.recorded.judged_tokens
    steps = fit.shape[-2:]
    known = fit.reshape(-1, *steps)
    table = describe(s.searched, HORIZON, np.concatenate([known, judged.reshape(-1, *steps)]), s.ridge)
    labels = labels_by("kmeans", table, num_groups, s.seed)
    rows = [known[labels[: len(known)] == g] for g in range(labels.max() + 1)]
    grams = np.stack([group.sum(0) if len(group) else known.sum(0) for group in rows])
    own = labels[len(known) :].reshape(judged.shape[:2])
    return _judge_tokens(s, by_label(s.searched.fit(grams, s.ridge), own))


def _lasting(s: Subject) -> dict[str, dict[str, dict[str, float]]]:
    """Agreement of assignments between single prompts, by number of groups."""
    tokens = s.recorded.fit_tokens.shape[1]
    kinds = {"channels": s.recorded.prompts[:PAIRED], "tokens": s.recorded.fit_tokens[:PAIRED]}
    return {
        kind: {
            str(k): asdict(
                summary([labels_by("kmeans", describe(s.searched, USUAL, g, s.ridge), k, s.seed) for g in grams])
            )
            for k in s.few_counts
            if k < tokens  # else every token is its own group
        }
        for kind, grams in kinds.items()
    }


def _table(found: dict[int, dict[str, Outcome]], limits: dict[str, Outcome]) -> Table:
    one = limits["one group"]

    def cells(outcome: Outcome) -> tuple[float, float]:
        return float(outcome[0].mean() / one[0].mean()), float(100 * outcome[1].mean())

    names = next(iter(found.values()))
    rows = [row(name, *(cell for ways in found.values() for cell in cells(ways[name]))) for name in names]
    rows += [row(name, *cells(outcome) * len(found)) for name, outcome in limits.items()]
    head = [cell for k in found for cell in (f"{k} groups: cost", "error %")]
    caption = (
        "Fitted taps shared by groups, held out: replay cost relative to one group, and squared forecast error "
        "relative to the feature's energy over all predicted steps."
    )
    return Table(caption, ("groups of", *head), tuple(rows))


def _lasting_table(lasting: dict[str, dict[str, dict[str, float]]]) -> Table:
    rows = tuple(row(kind, *(cell["mean"] for cell in cells.values())) for kind, cells in lasting.items())
    caption = f"Adjusted Rand index between the assignments of single prompts (k-means, {USUAL})."
    return Table(caption, ("assigned", *next(iter(lasting.values()))), rows)


def _claims(
    s: Subject, found: dict[int, dict[str, Outcome]], lasting: dict[str, dict[str, dict[str, float]]]
) -> tuple[Claim, ...]:
    def against(names: tuple[str, ...]) -> dict[int, tuple[float, float, float]]:
        best = {k: min((ways[name][0] for name in names), key=lambda cost: cost.sum()) for k, ways in found.items()}
        return {k: ratio(ways["dimensions"][0], best[k], s.seed) for k, ways in found.items()}

    tokens = against(TOKENS)
    chance = against(("dimensions by chance, same sizes", "dimensions in equal blocks"))
    moving = [lasting["tokens"][k]["mean"] < lasting["channels"][k]["mean"] / 2 for k in lasting["tokens"]]
    return (
        Claim(
            "Dimension-wise beats token-wise (at the same number of groups, interval below 1).",
            verdict([high < 1 for _, _, high in tokens.values()]),
            "cost over the best grouping of tokens: "
            + ", ".join(f"{told(value)} at {k}" for k, value in tokens.items())
            + ".",
        ),
        Claim(
            "Dimension-wise beats uniform (groups by chance and equal blocks, interval below 1).",
            verdict([high < 1 for _, _, high in chance.values()]),
            "cost over the better of the two: "
            + ", ".join(f"{told(value)} at {k}" for k, value in chance.items())
            + ".",
        ),
        Claim(
            "Token assignments move with the prompt (their ARI is less than half that of channels).",
            verdict(moving),
            "ARI of tokens / channels: "
            + ", ".join(
                f"{lasting['tokens'][k]['mean']:.2f} / {lasting['channels'][k]['mean']:.2f} at {k}"
                for k in lasting["tokens"]
            )
            + ".",
        ),
    )


def _text() -> str:
    return (
        "Tokens are grouped by the same descriptors, on their Gram summed over channels. *By position* fixes the group "
        "of a position for all prompts, as a plan would have to; *by content* assigns every token of every prompt by "
        "its own whole trajectory, which no run can know: a bound on what token groups could do."
    )
