"""Is it the dimensions that matter? Groups of tokens, and groups drawn by chance, on the same terms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np

from hyca_calib.clusters.stability import agreement, labels_by
from hyca_calib.search.replay import grouped
from studies.paper.chapter import Claim, Part, Table, Verdict
from studies.paper.effects import Ratio, quantiles
from studies.paper.groups.agreement import summary
from studies.paper.groups.choice import DRAWS, random_labels
from studies.paper.groups.subject import HORIZON, USUAL, Subject, describe, members
from studies.paper.replay_setup import Array, Labels, Rows, by_label
from studies.paper.ruling import all_below, decide, ruled, shared_level, told

Outcome = tuple[Array, Array]
"""Held-out replay cost and relative forecast error of each judged prompt, ``(prompt,)``."""

TOKENS = ("tokens by position", "tokens by position, horizon taps", "tokens by content, horizon taps")
UNIFORM = ("dimensions by chance, same sizes", "dimensions in equal blocks")
PAIRED = 8
RESAMPLES = 2000


def controls(s: Subject) -> Part:
    """Every way of grouping at the same numbers of groups; then whether assignments last."""
    found = {k: {name: way(k) for name, way in _ways(s).items()} for k in s.few_counts}
    one = _channel_outcome(s, np.zeros(s.channels, dtype=np.int64))
    own = _channel_outcome(s, np.arange(s.channels))
    each = token_outcome(s, np.arange(s.recorded.fit_tokens.shape[1]))
    labelings = _labelings(s)
    lasting = {kind: {k: asdict(summary(labels)) for k, labels in of.items()} for kind, of in labelings.items()}
    limits = {"one group": one, "every channel": own, "every token position": each}
    numbers = {
        "cost": {str(k): {name: float(out[0].mean()) for name, out in ways.items()} for k, ways in found.items()},
        "error": {str(k): {name: float(out[1].mean()) for name, out in ways.items()} for k, ways in found.items()},
        "limits": {name: [float(out[0].mean()), float(out[1].mean())] for name, out in limits.items()},
        "agreement_across_prompts": lasting,
        "token_less_half_channel_ari": {
            k: _half_the_agreement(tokens, labelings["channels"][k], s.seed)
            for k, tokens in labelings["tokens"].items()
        },
        "contests": _compared(s, found),
    }
    tables = (_table(found, limits), _lasting_table(lasting))
    return Part(tables, numbers, (_text(),))


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


def _labelings(s: Subject) -> dict[str, dict[str, list[Labels]]]:
    """Assignments by single prompts, by number of groups."""
    tokens = s.recorded.fit_tokens.shape[1]
    kinds = {"channels": s.recorded.prompts[:PAIRED], "tokens": s.recorded.fit_tokens[:PAIRED]}
    return {
        kind: {
            str(k): [labels_by("kmeans", describe(s.searched, USUAL, g, s.ridge), k, s.seed) for g in grams]
            for k in s.few_counts
            if k < tokens  # else every token is its own group
        }
        for kind, grams in kinds.items()
    }


def _half_the_agreement(tokens: list[Labels], channels: list[Labels], seed: int) -> Ratio:
    """Mean agreement of tokens' assignments over pairs of prompts less half of channels', with interval over prompts.

    A prompt that is drawn twice is no pair with itself.
    """
    count = min(len(tokens), len(channels))  # both begin with the same prompts
    apart = agreement(tokens[:count]) - agreement(channels[:count]) / 2
    np.fill_diagonal(apart, 0.0)
    times = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=RESAMPLES)
    pairs = times.sum(1) ** 2 - (times**2).sum(1)
    means = np.einsum("di,ij,dj->d", times, apart, times)[pairs > 0] / pairs[pairs > 0]
    return float(apart.sum() / (count * (count - 1))), *quantiles(means, count)


def _table(found: dict[int, dict[str, Outcome]], limits: dict[str, Outcome]) -> Table:
    one = limits["one group"]

    def cells(outcome: Outcome) -> tuple[float, float]:
        return float(outcome[0].mean() / one[0].mean()), float(100 * outcome[1].mean())

    names = next(iter(found.values()))
    rows = {name: [cell for ways in found.values() for cell in cells(ways[name])] for name in names}
    rows |= {name: [*cells(outcome) * len(found)] for name, outcome in limits.items()}
    head = [cell for k in found for cell in (f"{k} groups: cost", "error %")]
    caption = (
        "Fitted taps shared by groups, held out: replay cost relative to one group, and squared forecast error "
        "relative to the feature's energy over all predicted steps."
    )
    return Table.of(caption, ("groups of", *head), rows)


def _lasting_table(lasting: dict[str, dict[str, dict[str, float]]]) -> Table:
    cells = {kind: [cell["mean"] for cell in of.values()] for kind, of in lasting.items()}
    caption = f"Adjusted Rand index between the assignments of single prompts (k-means, {USUAL})."
    return Table.of(caption, ("assigned", *next(iter(lasting.values()))), cells)


def _compared(s: Subject, found: dict[int, dict[str, Outcome]]) -> dict[str, dict[str, dict[str, list[float]]]]:
    """Cost of groups of dimensions over that of each rival, by number of groups."""
    return {
        name: {
            str(k): {rival: _against(s, ways["dimensions"][0], ways[rival][0], len(rivals)) for rival in rivals}
            for k, ways in found.items()
        }
        for name, rivals in (("tokens", TOKENS), ("uniform", UNIFORM))
    }


def _against(s: Subject, own: Array, other: Array, rivals: int) -> list[float]:
    """Ratio and its interval, then the interval's lower end at the level that so many rivals ask for."""
    return [*s.ratio(own, other), s.ratio(own, other, shared_level(rivals))[1]]


def claims(found: dict[str, Any]) -> tuple[Claim, ...]:
    """Verdicts of the numbers of `controls`."""
    lasting = found["agreement_across_prompts"]
    return (
        ruled(
            "Dimension-wise beats token-wise (every way to group tokens, at the same number of groups).",
            lambda: _beats(found["contests"]["tokens"]),
        ),
        ruled(
            "Dimension-wise beats uniform (groups by chance and equal blocks, at the same number of groups).",
            lambda: _beats(found["contests"]["uniform"]),
        ),
        ruled(
            "Token assignments move with the prompt (their ARI is less than half that of channels).",
            lambda: (
                all_below(found["token_less_half_channel_ari"][k] for k in lasting["tokens"]),
                "ARI of tokens / channels, and the first less half of the second: "
                + ", ".join(
                    f"{lasting['tokens'][k]['mean']:.2f} / {lasting['channels'][k]['mean']:.2f} at {k}, "
                    f"{told(found['token_less_half_channel_ari'][k])}"
                    for k in lasting["tokens"]
                )
                + ".",
            ),
        ),
    )


def _beats(cells: dict[str, dict[str, list[float]]]) -> tuple[Verdict, str]:
    """Every rival must be beaten; one that surely is not is enough, corrected for their number."""

    def met(rivals: dict[str, list[float]]) -> bool | None:
        if all(high < 1 for _, _, high, _ in rivals.values()):
            return True
        return False if any(surely >= 1 for *_, surely in rivals.values()) else None

    hardest = {k: max(rivals.items(), key=lambda item: item[1][0]) for k, rivals in cells.items()}
    told_of = ", ".join(f"{told(ratio[:3])} at {k} ({name})" for k, (name, ratio) in hardest.items())
    return decide([met(rivals) for rivals in cells.values()]), f"cost over the best of them: {told_of}."


def _text() -> str:
    return (
        "Tokens are grouped by the same descriptors, on their Gram summed over channels. *By position* fixes the group "
        "of a position for all prompts, as a plan would have to; *by content* assigns every token of every prompt by "
        "its own whole trajectory, which no run can know: a bound on what token groups could do."
    )
