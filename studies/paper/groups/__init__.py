"""Groups of feature dimensions: are they real, do they last, and what are they good for?"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from studies.paper.chapter import Context, Numbers, Outline, Question, asking
from studies.paper.drawing import ACCENT, GREEN, GREY, INK, colours, heat_maps, save, subplots
from studies.paper.groups import choice, controls, heterogeneity, shrinkage, stability
from studies.paper.groups.subject import Subject, subject

QUESTIONS: dict[str, Question[Subject]] = {
    "heterogeneity": (heterogeneity.heterogeneity, heterogeneity.rulings),
    "stability": (stability.stability, stability.rulings),
    "choice": (choice.choice, choice.rulings),
    "shrinkage": (shrinkage.shrinkage, shrinkage.rulings),
    "controls": (controls.controls, controls.rulings),
    "hybrid": (choice.hybrid, choice.hybrid_rulings),
}
SOLVERS, AGREEMENT, COST = "grouping-solvers.png", "grouping-ari.png", "grouping-cost.png"
CAPTIONS = {
    SOLVERS: "Share of channels that each closed form serves best, gap by gap and over the whole run.",
    AGREEMENT: "Adjusted Rand index of k-means assignments; each panel says what changes between two labelings.",
    COST: "Held-out replay cost by number of groups. Left: how channels or tokens are grouped. Right: one row of taps "
    "per group (lines) or per channel, drawn towards the group's (dashes) or with its data added (dots).",
}
TITLES = {
    "prompts": "between single prompts",
    "sets": "between sets of prompts",
    "windows": "between thirds of the run",
    "splits": "fit against select",
}


def draw(context: Context, s: Subject, numbers: Numbers) -> None:
    """All three figures."""
    solver_shares(s, context.folder / SOLVERS)
    agreement_map(stability.of_kmeans(numbers["stability"]["agreement"]), context.folder / AGREEMENT)
    cost_by_groups(s, numbers, context.folder / COST)


def agreement_map(cells: Sequence[stability.Cell], path: Path) -> None:
    """Mean ARI of k-means for descriptors and number of groups, a panel for each source."""
    names, counts = list(dict.fromkeys(c["descriptors"] for c in cells)), sorted({c["groups"] for c in cells})
    tables = {title: np.full((len(names), len(counts)), np.nan) for title in TITLES.values()}
    for cell in cells:
        for source in (source for source in stability.DATA if source in cell):
            place = names.index(cell["descriptors"]), counts.index(cell["groups"])
            tables[TITLES[source]][place] = cell[source]["mean"]

    def tell(value: float) -> str:
        return "-" if np.isnan(value) else f"{value:.2f}"

    labels = ("number of groups", "adjusted Rand index (bold: above 0.8)")
    shades: dict[str, Any] = {"vmin": 0, "vmax": 1, "cmap": "RdYlBu"}
    heat_maps(tables, names, counts, tell, lambda table: table > stability.BAR, path, labels, **shades)


def cost_by_groups(s: Subject, numbers: dict[str, Any], path: Path) -> None:
    """Held-out cost over the number of groups, for the ways of grouping and of sharing taps."""
    figure, ((left, right),) = subplots(1, 2, (11, 5.6))
    own = numbers["choice"]["fitted_per_channel"]
    _ways(left, s, numbers["choice"]["fitted"], own)
    for name, style in (("tokens by position", "s:"), ("tokens by content, horizon taps", "^:")):
        costs = [numbers["controls"]["cost"][str(k)][name] / own for k in s.few_counts]
        left.plot(s.few_counts, costs, style, color=GREY, ms=4, lw=1, label=name)
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
    figure, (panels,) = subplots(1, 2, (11, 4), sharey=True)
    shades = colours(heterogeneity.LABELS)
    shown: set[str] = set()
    for axes, (title, setup) in zip(panels, s.setups.items(), strict=True):
        costs = setup.closed_costs(s.recorded.fit)  # (solver, gap, channel)
        winners = [*costs.argmin(0), costs.sum(1).argmin(0)]
        names = [f"{targets[0]}-{targets[-1]}" for _, targets in setup.gaps] + ["whole run"]
        bottom = np.zeros(len(names))
        for i, label in enumerate(heterogeneity.LABELS):
            share = np.array([100 * (winner == i).mean() for winner in winners])
            if share.max() > 0:
                told = None if label in shown else label
                axes.bar(range(len(names)), share, bottom=bottom, color=shades[label], width=0.85, label=told)
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
    kmeans = {name.removesuffix(", kmeans"): costs for name, costs in fitted.items() if name.endswith(", kmeans")}
    for name, color in colours(list(kmeans), "tab10").items():
        axes.plot(s.counts, np.divide(kmeans[name], own), "o-", color=color, ms=3, lw=1, label=name)
    for name, style in ((choice.DESCENT, "k-"), (choice.RANDOM, "k:")):
        axes.plot(s.counts, np.divide(fitted[name], own), style, lw=1.8, label=name)


def _sharing(axes: Any, s: Subject, curves: dict[str, dict[str, list[float]]], own: float) -> None:
    """Color says how much data, style says whose taps."""
    styles = {shrinkage.GROUP: "o-", shrinkage.DRAWN: "x--", shrinkage.POOLED: "^:"}
    for color, (regime, kinds) in zip(("#9a031e", ACCENT, GREEN, INK), curves.items(), strict=True):
        for kind, style in styles.items():
            axes.plot(s.counts, np.divide(kinds[kind], own), style, color=color, ms=4, lw=1.1)
        axes.plot([], [], color=color, label=f"fitted on {regime}")
    for kind, style in styles.items():
        axes.plot([], [], style, color="grey", ms=4, label=kind)
    axes.set_yscale("log")
    axes.set_yticks((1, 1.25, 1.5, 2, 3), ("1", "1.25", "1.5", "2", "3"))
    axes.minorticks_off()


GROUPING = Outline("Groups of feature dimensions", ("demo", "demo-class"), *asking(subject, QUESTIONS, draw), CAPTIONS)
