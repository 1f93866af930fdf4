"""Is it the dimensions that matter? Groups of tokens, and groups drawn by chance, on the same terms."""

from collections.abc import Callable
from functools import partial

import numpy as np

from hyca_calib.clusters.base import Labels
from hyca_calib.clusters.stability import agreement, labels_by
from hyca_calib.quality.metrics import RESAMPLES
from hyca_calib.search.replay import Array
from studies.paper.chapter import Numbers, Part, Rulings, Table, Verdict
from studies.paper.groups.choice import DRAWS, random_labels
from studies.paper.groups.stability import summary
from studies.paper.groups.subject import HORIZON, PAIRED, USUAL, Subject
from studies.paper.intervals import Ratio, all_below, all_of, decide, quantiles, shared_level
from studies.paper.replay import Rows, by_label
from studies.paper.words import claims, paragraphs, table

Outcome = tuple[Array, Array]
"""Held-out replay cost and relative forecast error of each judged prompt, ``(prompt,)``."""

TOKENS = ("tokens by position", "tokens by position, horizon taps", "tokens by content, horizon taps")
UNIFORM = ("dimensions by chance, same sizes", "dimensions in equal blocks")


def controls(s: Subject) -> Part:
    """Every way of grouping at the same numbers of groups; then whether assignments last."""
    found = {str(k): _outcomes(s, k) for k in s.few_counts}
    limits = {
        "one group": channel_outcome(s, np.zeros_like(s.each)),
        "every channel": channel_outcome(s, s.each),
        "every token position": token_outcome(s, np.arange(s.recorded.fit_tokens.shape[1])),
    }
    tokens = s.recorded.fit_tokens[:PAIRED]
    several = [k for k in s.few_counts if k < tokens.shape[1]]  # else every token is its own group
    labelings = {
        kind: {str(k): [s.labels(USUAL, k, gram=gram) for gram in grams] for k in several}
        for kind, grams in (("channels", s.recorded.prompts[:PAIRED]), ("tokens", tokens))
    }
    lasting = {kind: {k: summary(labels) for k, labels in of.items()} for kind, of in labelings.items()}
    means = {k: {name: [float(x.mean()) for x in out] for name, out in ways.items()} for k, ways in found.items()}
    numbers = {
        "cost": {k: {name: cost for name, (cost, _) in ways.items()} for k, ways in means.items()},
        "error": {k: {name: error for name, (_, error) in ways.items()} for k, ways in means.items()},
        "limits": {name: [float(x.mean()) for x in out] for name, out in limits.items()},
        "agreement_across_prompts": lasting,
        "token_less_half_channel_ari": {
            k: _half_the_agreement(of, labelings["channels"][k], s.seed) for k, of in labelings["tokens"].items()
        },
        "contests": {
            name: {k: {other: _against(s, ways, other, len(others)) for other in others} for k, ways in found.items()}
            for name, others in (("tokens", TOKENS), ("uniform", UNIFORM))
        },
    }
    agreed = {kind: [cell["mean"] for cell in of.values()] for kind, of in lasting.items()}
    lasted = table("grouping", "lasted", agreed, usual=USUAL, columns=lasting["channels"])
    return Part(numbers, (_table(numbers), lasted), paragraphs("grouping", "tokens_text"))


def channel_outcome(s: Subject, labels: Labels) -> Outcome:
    """Taps shared by groups of channels, ``(channel,)``."""
    return _outcome(s, s.recorded.judged, s.group_rows(labels), s.gain)


def token_outcome(s: Subject, labels: Labels) -> Outcome:
    """Taps shared by groups of token positions, ``(token,)``."""
    even = np.ones(len(labels))
    rows = s.searched.fit_groups(s.recorded.fit_tokens.mean(0), even, labels, s.ridge)
    return _outcome(s, s.recorded.judged_tokens, rows, even)


def content_outcome(s: Subject, num_groups: int) -> Outcome:
    """Every token of every prompt is assigned by its whole trajectory: it sees the future, so this is a bound."""
    judged = s.recorded.judged_tokens
    known, held = (grams.reshape(-1, *grams.shape[-2:]) for grams in (s.recorded.fit_tokens, judged))
    labels = labels_by("kmeans", s.describe(HORIZON, np.concatenate([known, held])), num_groups, s.seed)
    groups = [known[labels[: len(known)] == g] for g in range(labels.max() + 1)]
    grams = np.stack([group.sum(0) if len(group) else known.sum(0) for group in groups])
    rows = by_label(s.searched.fit(grams, s.ridge), labels[len(known) :].reshape(judged.shape[:2]))
    return _outcome(s, judged, rows, np.ones(judged.shape[1]))


def _outcome(s: Subject, judged: Array, rows: Rows, weight: Array) -> Outcome:
    error = s.searched.error(judged, rows) @ weight / (s.searched.energy(judged) @ weight)
    return np.asarray(s.searched.cost(judged, rows) @ weight), np.asarray(error)


def _outcomes(s: Subject, k: int) -> dict[str, Outcome]:
    """Of every way to make k groups."""
    channels, tokens = partial(channel_outcome, s), partial(token_outcome, s)
    usual, positions = s.labels(USUAL, k), s.recorded.fit_tokens.mean(0)
    by_position = s.labels(USUAL, k, gram=positions)

    def by_chance(outcome: Callable[[Labels], Outcome], labels: Labels) -> Outcome:
        cost, error = np.mean([outcome(random_labels(labels, s.seed + i)) for i in range(DRAWS)], axis=0)
        return cost, error

    return {
        "dimensions": channels(usual),
        "dimensions, horizon taps": channels(s.labels(HORIZON, k)),
        "dimensions by chance, same sizes": by_chance(channels, usual),
        "dimensions in equal blocks": channels(s.each * k // len(s.each)),
        "tokens by position": tokens(by_position),
        "tokens by position, horizon taps": tokens(s.labels(HORIZON, k, gram=positions)),
        "tokens by content, horizon taps": content_outcome(s, k),
        "tokens by chance, same sizes": by_chance(tokens, by_position),
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


def _table(numbers: Numbers) -> Table:
    one, counts = numbers["limits"]["one group"][0], list(numbers["cost"])

    def cells(cost: float, error: float) -> tuple[float, float]:
        return cost / one, 100 * error

    rows = {
        name: [cell for k in counts for cell in cells(numbers["cost"][k][name], numbers["error"][k][name])]
        for name in numbers["cost"][counts[0]]
    }
    rows |= {name: [*cells(*outcome) * len(counts)] for name, outcome in numbers["limits"].items()}
    return table("grouping", "sharing", rows, counts=counts)


def _against(s: Subject, ways: dict[str, Outcome], other: str, others: int) -> list[float]:
    """Cost of groups of dimensions over that of others, its interval, then the interval's lower end at the level that
    their number asks for."""
    own, cost = ways["dimensions"][0], ways[other][0]
    return [*s.ratio(own, cost), s.ratio(own, cost, shared_level(others))[1]]


def rulings(found: Numbers) -> Rulings:
    """By the numbers of `controls`."""
    verdicts = {rivals: _beats(cells) for rivals, cells in found["contests"].items()}
    moving = {"assignments": all_below(found["token_less_half_channel_ari"].values(), 0)}
    return claims("grouping", verdicts | moving, **found)


def _beats(cells: dict[str, dict[str, list[float]]]) -> Verdict:
    """Every one must be beaten; one that surely is not is enough, corrected for their number."""
    return decide(
        [
            all_of([True if high < 1 else False if surely >= 1 else None for _, _, high, surely in others.values()])
            for others in cells.values()
        ]
    )
