"""Pictures of the chapter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from numpy.typing import NDArray

from hyca_calib.clusters.stability import Agreement
from studies.paper.groups.choice import DESCENT
from studies.paper.groups.heterogeneity import LABELS
from studies.paper.groups.shrinkage import DRAWN, GROUP, POOLED
from studies.paper.groups.stability import BAR, DATA
from studies.paper.groups.subject import Subject

matplotlib.use("Agg")

from matplotlib import pyplot

__all__ = ["agreement_map", "cost_by_groups", "save", "solver_shares"]

Array = NDArray[np.float64]

INK, ACCENT = "#1b2a41", "#e4572e"
TITLES = {
    "prompts": "between single prompts",
    "sets": "between sets of prompts",
    "windows": "between thirds of the run",
    "splits": "fit against select",
}


def agreement_map(cells: dict[tuple[str, int], dict[str, Agreement]], path: Path) -> None:
    """Mean ARI of k-means for descriptors and number of groups, a panel for each source."""
    names, counts = list(dict.fromkeys(d for d, _ in cells)), sorted({k for _, k in cells})
    figure, panels = pyplot.subplots(
        1, len(DATA), figsize=(11, 1.3 + 0.33 * len(names)), sharey=True, layout="constrained", squeeze=False
    )
    shades = None
    for axes, source in zip(panels[0], DATA, strict=True):
        table = np.full((len(names), len(counts)), np.nan)
        for (name, k), cell in cells.items():
            if source in cell:
                table[names.index(name), counts.index(k)] = cell[source].mean
        shades = axes.imshow(table, vmin=0, vmax=1, cmap="RdYlBu", aspect="auto")
        for (i, j), value in np.ndenumerate(table):
            told = "-" if np.isnan(value) else f"{value:.2f}"
            axes.text(j, i, told, ha="center", va="center", fontsize=8, weight="bold" if value > BAR else "normal")
        axes.set_xticks(range(len(counts)), [str(k) for k in counts])
        axes.set(xlabel="number of groups", title=TITLES[source])
        axes.title.set_fontsize(9)
    panels[0][0].set_yticks(range(len(names)), names, fontsize=8)
    if shades is not None:
        figure.colorbar(shades, ax=panels[0].tolist(), label="adjusted Rand index (bold: above 0.8)", fraction=0.03)
    save(figure, path)


def cost_by_groups(s: Subject, numbers: dict[str, Any], path: Path) -> None:
    """Held-out cost over the number of groups, for the ways of grouping and of sharing taps."""
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 5.6), layout="constrained")
    own = numbers["choice"]["fitted_per_channel"]
    _ways(left, s, numbers["choice"]["fitted"], own)
    for name, style in (("tokens by position", "s:"), ("tokens by content, horizon taps", "^:")):
        costs = [numbers["controls"]["cost"][str(k)][name] / own for k in s.few_counts]
        left.plot(s.few_counts, costs, style, color="#7d8597", ms=4, lw=1, label=name)
    left.set_title("ways of grouping; taps fitted per group", fontsize=10)
    _sharing(right, s, numbers["shrinkage"]["curves"], own)
    right.set_title("a row of taps per group, or per channel leaning on its group", fontsize=10)
    for axes in (left, right):
        axes.axhline(1, color="black", lw=0.8, ls="--")
        axes.set_xscale("log", base=2)
        axes.set_xticks(s.counts, [str(k) for k in s.counts])
        axes.set(xlabel="number of groups", ylabel="held-out cost / cost of taps per channel")
        axes.legend(fontsize=7.5, frameon=False, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.13))
    save(figure, path)


def solver_shares(s: Subject, path: Path) -> None:
    """Share of channels that each closed form serves best, in every gap and on the whole schedule."""
    figure, panels = pyplot.subplots(1, 2, figsize=(11, 4), sharey=True, layout="constrained")
    colors = dict(zip(LABELS, pyplot.get_cmap("tab20")(np.arange(len(LABELS)) % 20), strict=True))
    shown: set[str] = set()
    for axes, arena, title in zip(panels, (s.searched, s.published), ("searched", "published"), strict=True):
        costs = arena.closed_costs(s.recorded.fit)  # (solver, gap, channel)
        winners = [*costs.argmin(0), costs.sum(1).argmin(0)]
        names = [f"{targets[0]}-{targets[-1]}" for _, targets in arena.gaps] + ["whole run"]
        bottom = np.zeros(len(names))
        for i, label in enumerate(LABELS):
            share = np.array([100 * (winner == i).mean() for winner in winners])
            if share.max() > 0:
                told = None if label in shown else label
                axes.bar(range(len(names)), share, bottom=bottom, color=colors[label], width=0.85, label=told)
                shown.add(label)
            bottom += share
        axes.set_xticks(range(len(names)), names, rotation=45, ha="right", fontsize=8)
        axes.set(xlabel="predicted steps", ylim=(0, 100))
        axes.set_title(f"{title} schedule", fontsize=10)
    panels[0].set_ylabel("channels this closed form serves best (%)")
    figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    save(figure, path)


def _ways(axes: Any, s: Subject, fitted: dict[str, list[float]], own: float) -> None:
    """K-means on each descriptor set, descent on the cost, and chance."""
    colors = iter(pyplot.get_cmap("tab10")(np.arange(20) % 10))
    for name, costs in fitted.items():
        if name.endswith(", kmeans"):
            axes.plot(s.counts, np.divide(costs, own), "o-", color=next(colors), ms=3, lw=1, label=name[:-8])
    for name, style in ((DESCENT, "k-"), ("random", "k:")):
        axes.plot(s.counts, np.divide(fitted[name], own), style, lw=1.8, label=name)


def _sharing(axes: Any, s: Subject, curves: dict[str, dict[str, list[float]]], own: float) -> None:
    """Color says how much data, style says whose taps."""
    styles = {GROUP: "o-", DRAWN: "x--", POOLED: "^:"}
    for color, (regime, kinds) in zip(("#9a031e", ACCENT, "#4c956c", INK), curves.items(), strict=True):
        for kind, style in styles.items():
            axes.plot(s.counts, np.divide(kinds[kind], own), style, color=color, ms=4, lw=1.1)
        axes.plot([], [], color=color, label=f"fitted on {regime}")
    for kind, style in styles.items():
        axes.plot([], [], style, color="grey", ms=4, label=kind)
    axes.set_yscale("log")
    axes.set_yticks((1, 1.25, 1.5, 2, 3), ("1", "1.25", "1.5", "2", "3"))
    axes.minorticks_off()


def save(figure: Any, path: Path) -> None:
    """Write a figure, making the folder, and close it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)
