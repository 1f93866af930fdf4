"""Are the groups the same for other prompts, seeds and steps, and does it matter?"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from hyca_calib.clusters.stability import labels_by, separation
from studies.paper.chapter import Claim, Part, Table, Verdict
from studies.paper.groups.agreement import Agreement, summary
from studies.paper.groups.subject import HORIZON, USUAL, Subject, bare, describe
from studies.paper.replay_setup import Array
from studies.paper.ruling import above, all_below, decide, listed, ruled

SOURCES = ("prompts", "sets", "windows", "splits", "restarts")
"""What changes between labelings: single prompts (each with its own seed); disjoint sets of prompts and
seeds; early, middle and late steps; the fit and the select split; only the clusterer's seed."""

DATA = SOURCES[:-1]
BAR = 0.8
SHOWN = (USUAL, "energy+dynamics+spectrum", HORIZON)
PAIRED = 8  # single prompts compared
FREE = 1.02  # groups of another prompt are as good if they cost at most this much more


def stability(s: Subject) -> Part:
    """Agreement of assignments over everything that may change, and what disagreement costs."""
    found = measure(s)
    moved = _moved(s)
    numbers = {
        "agreement": [
            {
                "descriptors": key[0],
                "clusterer": key[1],
                "groups": key[2],
                "silhouette": bare(silhouette),
                **{source: asdict(value) for source, value in by_source.items()},
            }
            for key, (by_source, silhouette) in found.items()
        ],
        "cost_of_groups_from_one_prompt": {str(k): value for k, value in moved.items()},
    }
    kmeans = {(d, k): cell for (d, clusterer, k), cell in found.items() if clusterer == "kmeans"}
    tables = (_table(kmeans), _by_clusterer(found), _moved_table(moved))
    return Part(tables, numbers)


def cells_of(numbers: dict[str, Any]) -> dict[tuple[str, int], dict[str, Agreement]]:
    """Agreement of k-means by source, for descriptors and number of groups."""
    return {
        (cell["descriptors"], cell["groups"]): {
            source: Agreement(**cell[source]) for source in SOURCES if source in cell
        }
        for cell in numbers["agreement"]
        if cell["clusterer"] == "kmeans"
    }


def measure(s: Subject) -> dict[tuple[str, str, int], tuple[dict[str, Agreement], float]]:
    """Agreement by source and silhouette, for descriptors, clusterer and number of groups."""
    found = {}
    for descriptors in s.descriptor_sets:
        tables = _tables(s, descriptors)
        for clusterer in s.clusterers:
            for k in s.few_counts:
                cell = {
                    source: summary([labels_by(clusterer, table, k, s.seed) for table in varied])
                    for source, varied in tables.items()
                }
                whole = describe(s.searched, descriptors, s.recorded.fit, s.ridge)
                starts = [labels_by(clusterer, whole, k, s.seed + start) for start in range(4)]
                cell["restarts"] = summary(starts)
                found[descriptors, clusterer, k] = cell, separation(whole, starts[0])
    return found


def claims(found: dict[str, Any]) -> tuple[Claim, ...]:
    """Verdicts of the numbers of `stability`: the paper's claim for k-means, and whether it matters."""
    cells, moved = cells_of(found), found["cost_of_groups_from_one_prompt"]
    return (
        ruled(
            f"Clusters are stable (ARI of every pair of labelings above {BAR}) for every descriptor set, number of "
            "groups and change of data.",
            lambda: _stable(cells),
        ),
        ruled(
            "Groups that move cost nothing (groups found on one prompt cost at most 2 % more than groups found on "
            "all, taps fitted on all in both cases).",
            lambda: (
                all_below(moved.values(), FREE),
                f"cost over that of groups found on all: {listed(moved, '{} groups {}')}.",
            ),
        ),
    )


def _stable(cells: dict[tuple[str, int], dict[str, Agreement]]) -> tuple[Verdict, str]:
    """By the range over pairs: they share labelings, so they have no interval."""
    pairs = [cell[source] for cell in cells.values() for source in DATA if source in cell]
    met = [above((pair.mean, pair.lowest, pair.highest), BAR) for pair in pairs]
    evidence = []
    for count in sorted({k for _, k in cells}):
        at = {
            source: [cell[source].mean for (_, k), cell in cells.items() if k == count and source in cell]
            for source in DATA
        }
        means = ", ".join(f"{source} {np.mean(values):.2f}" for source, values in at.items() if values)
        evidence.append(f"{count} groups: {means}")
    return decide(met), (
        f"of {len(met)} cells of k-means every pair passes in {met.count(True)} and none in {met.count(False)}; mean "
        f"ARI over descriptor sets at {'; '.join(evidence)}."
    )


def _tables(s: Subject, descriptors: str) -> dict[str, list[Array]]:
    """Descriptor tables of each source's variants; a source that cannot be varied is left out."""

    def of(grams: Sequence[Array] | Array, window: slice | None = None) -> list[Array]:
        return [describe(s.searched, descriptors, gram, s.ridge, window) for gram in grams]

    found = {
        "prompts": of(s.recorded.prompts[:PAIRED]),
        "sets": of(s.recorded.sets),
        "splits": of([s.recorded.fit, s.recorded.judged.mean(0)]),
    }
    edges = np.linspace(0, s.schedule.num_steps, 4).round().astype(int)
    windows = [slice(int(a), int(b)) for a, b in itertools.pairwise(edges)]
    if descriptors != HORIZON or all(s.searched.within(window).gaps for window in windows):
        found["windows"] = [of([s.recorded.fit], window)[0] for window in windows]
    return {source: tables for source, tables in found.items() if len(tables) > 1}


def _moved(s: Subject) -> dict[int, list[float]]:
    """Held-out cost of groups found on one prompt over that of groups found on all, with interval; by number."""
    found = {}
    for k in s.few_counts:
        own = s.judge(s.group_rows(s.labels(USUAL, k)))
        others = [
            s.judge(s.group_rows(labels_by("kmeans", describe(s.searched, USUAL, gram, s.ridge), k, s.seed)))
            for gram in s.recorded.prompts[:PAIRED]
        ]
        found[k] = list(s.ratio(np.mean(others, axis=0), own))
    return found


def _table(cells: dict[tuple[str, int], tuple[dict[str, Agreement], float]]) -> Table:
    shown = {
        (descriptors, str(k)): [*(_told(cell.get(source)) for source in SOURCES), _number(silhouette)]
        for (descriptors, k), (cell, silhouette) in cells.items()
        if descriptors in SHOWN
    }
    caption = (
        "Adjusted Rand index of k-means assignments, mean and standard deviation over pairs. Sets are disjoint sets of "
        "prompts and seeds, windows the thirds of the run, restarts the same data with another seed of k-means. "
        "The figure has the other descriptor sets."
    )
    return Table.of(caption, ("descriptors", "groups", *SOURCES, "silhouette"), shown)


def _by_clusterer(found: dict[tuple[str, str, int], tuple[dict[str, Agreement], float]]) -> Table:
    shown = {}
    for clusterer in dict.fromkeys(key[1] for key in found):
        for k in dict.fromkeys(key[2] for key in found):
            cells = [cell for (_, c, n), (cell, _) in found.items() if (c, n) == (clusterer, k)]
            means = [np.mean([cell[source].mean for cell in cells if source in cell] or [np.nan]) for source in SOURCES]
            shown[clusterer, str(k)] = [_number(float(mean)) for mean in means]
    caption = "The same by clusterer, mean over all descriptor sets. Ward's agglomerative clustering has no seed."
    return Table.of(caption, ("clusterer", "groups", *SOURCES), shown)


def _moved_table(moved: dict[int, list[float]]) -> Table:
    caption = (
        "Held-out cost with groups found on a single prompt over that with groups found on all (k-means, "
        f"{USUAL}; taps fitted on all prompts; 95 % interval over prompts)."
    )
    return Table.of(caption, ("groups", "cost ratio", "from", "to"), {str(k): of for k, of in moved.items()})


def _number(value: float) -> str:
    return "-" if np.isnan(value) else f"{value:.2f}"


def _told(value: Agreement | None) -> str:
    return "-" if value is None else f"{value.mean:.2f} ± {value.spread:.2f}"
