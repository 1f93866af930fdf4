"""Are the groups the same for other prompts, seeds and steps, and does it matter?"""

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from hyca_calib.clusters.base import Labels
from hyca_calib.clusters.stability import agreement, labels_by, separation
from hyca_calib.search.replay import Array
from studies.paper.chapter import Numbers, Part, Rulings
from studies.paper.groups.subject import HORIZON, PAIRED, USUAL, Subject
from studies.paper.intervals import above, all_below, decide
from studies.paper.words import claims, table

SOURCES = ("prompts", "sets", "windows", "splits", "restarts")
"""What changes between labelings: single prompts (each with its own seed); disjoint sets of prompts and
seeds; early, middle and late steps; the fit and the select split; only the clusterer's seed."""

DATA = SOURCES[:-1]
BAR = 0.8
SHOWN = (USUAL, "energy+dynamics+spectrum", HORIZON)
FREE = 1.02  # groups of another prompt are as good if they cost at most this much more

Cell = dict[str, Any]
"""Descriptors, clusterer and number of groups, their silhouette, and the agreement by source, see `summary`."""


def stability(s: Subject) -> Part:
    """Agreement of assignments over everything that may change, and what disagreement costs."""
    cells = [cell for descriptors in s.descriptor_sets for cell in _cells(s, descriptors)]
    moved = {str(k): _moved(s, k) for k in s.few_counts}
    shown = {
        (cell["descriptors"], str(cell["groups"])): [
            *(f"{cell[of]['mean']:.2f} ± {cell[of]['spread']:.2f}" if of in cell else "-" for of in SOURCES),
            _rounded(cell["silhouette"]),
        ]
        for cell in of_kmeans(cells)
        if cell["descriptors"] in SHOWN
    }
    by_clusterer = {
        (name, str(k)): [_rounded(_mean(cells, source, clusterer=name, groups=k)) for source in SOURCES]
        for name, k in itertools.product(s.clusterers, s.few_counts)
    }
    tables = (
        table("grouping", "ari", shown, columns=SOURCES),
        table("grouping", "clusterers", by_clusterer, columns=SOURCES),
        table("grouping", "one_prompt", moved, usual=USUAL),
    )
    return Part({"agreement": cells, "cost_of_groups_from_one_prompt": moved}, tables)


def summary(labelings: Sequence[Labels]) -> dict[str, float]:
    """Adjusted Rand index of two labelings of the channels or more, over pairs: mean, deviation, extremes."""
    pairs = agreement(labelings)[np.triu_indices(len(labelings), k=1)]
    if not pairs.size:
        raise ValueError("agreement needs at least two labelings")
    found = {"mean": pairs.mean(), "spread": pairs.std(), "lowest": pairs.min(), "highest": pairs.max()}
    return {**{name: float(value) for name, value in found.items()}, "pairs": pairs.size}


def of_kmeans(cells: Sequence[Cell]) -> list[Cell]:
    """Those that the paper's claim is about."""
    return [cell for cell in cells if cell["clusterer"] == "kmeans"]


def _cells(s: Subject, descriptors: str) -> list[Cell]:
    varied, whole = _varied(s, descriptors), s.describe(descriptors, s.recorded.fit)
    found = []
    for clusterer, k in itertools.product(s.clusterers, s.few_counts):
        labelings = {of: [labels_by(clusterer, x, k, s.seed) for x in tables] for of, tables in varied.items()}
        labelings["restarts"] = [labels_by(clusterer, whole, k, s.seed + start) for start in range(4)]
        silhouette = separation(whole, labelings["restarts"][0])
        cell = {"descriptors": descriptors, "clusterer": clusterer, "groups": k}
        cell["silhouette"] = None if np.isnan(silhouette) else silhouette
        found.append(cell | {source: summary(labels) for source, labels in labelings.items()})
    return found


def _varied(s: Subject, descriptors: str) -> dict[str, list[Array]]:
    """Descriptor tables of each source's variants; a source that cannot be varied is left out."""
    grams: dict[str, Sequence[Array] | Array] = {
        "prompts": s.recorded.prompts[:PAIRED],
        "sets": s.recorded.sets,
        "splits": [s.recorded.fit, s.recorded.judged.mean(0)],
    }
    found = {source: [s.describe(descriptors, gram) for gram in of] for source, of in grams.items() if len(of) > 1}
    edges = np.linspace(0, len(s.searched.step_weights), 4).round().astype(int).tolist()
    windows = [slice(a, b) for a, b in itertools.pairwise(edges)]
    if descriptors != HORIZON or all(s.searched.within(window).gaps for window in windows):
        found["windows"] = [s.describe(descriptors, s.recorded.fit, window) for window in windows]
    return found


def _moved(s: Subject, k: int) -> Sequence[float]:
    """Held-out cost of groups found on one prompt over that of groups found on all, with interval."""
    others = [s.judge(s.group_rows(s.labels(USUAL, k, gram=gram))) for gram in s.recorded.prompts[:PAIRED]]
    return s.ratio(np.mean(others, axis=0), s.judge(s.group_rows(s.labels(USUAL, k))))


def rulings(found: Numbers) -> Rulings:
    """The paper's claim for k-means by the range over pairs: they share labelings, so they have no interval."""
    cells = of_kmeans(found["agreement"])
    pairs = [cell[source] for cell in cells for source in DATA if source in cell]
    met = [above((pair["mean"], pair["lowest"], pair["highest"]), BAR) for pair in pairs]
    verdicts = {"stable": decide(met), "moved": all_below(found["cost_of_groups_from_one_prompt"].values(), FREE)}
    means = {
        count: {source: mean for source in DATA if (mean := _mean(cells, source, groups=count)) is not None}
        for count in sorted({cell["groups"] for cell in cells})
    }
    return claims("grouping", verdicts, **found, met=met, means=means, bar=BAR)


def _mean(cells: Iterable[Cell], source: str, **of: Any) -> float | None:
    """Agreement over a source in those cells that are `of` such a kind."""
    known = [cell[source]["mean"] for cell in cells if source in cell and cell | of == cell]
    return float(np.mean(known)) if known else None


def _rounded(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"
