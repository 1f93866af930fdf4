"""Solvers: what every formula costs, on which axis, in which use, and what fitting or reading the run adds."""

from pathlib import Path
from typing import Any

import numpy as np

from hyca_calib.search.replay import Array
from studies.paper.chapter import Context, Numbers, Outline, Question, asking
from studies.paper.drawing import colours, heat_maps, save, subplots
from studies.paper.formulas import fitting, noise, pool
from studies.paper.formulas.dataset import Dataset, dataset
from studies.paper.intervals import Ratio

QUESTIONS: dict[str, Question[Dataset]] = {
    "pool": (pool.pool, pool.rulings),
    "multistep": (noise.multistep, noise.rulings),
    "modes": (fitting.modes, fitting.modes_rulings),
    "fitting": (fitting.fitting, fitting.rulings),
    "noise": (noise.noise, noise.noise_rulings),
}
COSTS, RECURSION = "solvers-cost.png", "solvers-recursive.png"
CAPTIONS = {
    COSTS: "Held-out replay cost over that of hold, of every solver at every published schedule.",
    RECURSION: "Cost of recursive over anchored use, with 95 % interval over prompts, of the solvers that differ.",
}
REACH = 1.0  # decades of the color scale on either side of hold

Cells = dict[str, dict[str, list[Ratio]]]
"""Ratios at each interval, of every solver on every axis."""


def draw(context: Context, s: Dataset, numbers: Numbers) -> None:
    """Both figures."""
    cost_map(numbers["pool"]["cost_over_hold"], s.intervals, context.folder / COSTS)
    recursion = numbers["multistep"]["recursive_over_anchored"]
    anchored_and_recursive(recursion, s.intervals, context.folder / RECURSION)


def cost_map(costs: Cells, intervals: tuple[int, ...], path: Path) -> None:
    """Log cost over hold of each solver at each interval, a panel for each axis."""
    tables = {
        f"{axis} axis": np.log10([[ratio[0] for ratio in ratios] for ratios in cells.values()])
        for axis, cells in costs.items()
    }

    def tell(value: float) -> str:
        return f"{10**value:.{2 * (value < 1)}f}"

    def best(table: Array) -> Any:
        return np.isclose(table, table.min(0))

    labels = ("interval N", "log10 of cost over hold (bold: best)")
    shades: dict[str, Any] = {"vmin": -REACH, "vmax": REACH, "cmap": "RdYlBu_r"}
    heat_maps(tables, list(next(iter(costs.values()))), intervals, tell, best, path, labels, **shades)


def anchored_and_recursive(ratios: Cells, intervals: tuple[int, ...], path: Path) -> None:
    """Cost of recursive over anchored use by interval, a panel for each axis."""
    figure, panels = subplots(1, len(ratios), (2.6 + 4.2 * len(ratios), 4.2), sharey=True)
    shades = colours(list(next(iter(ratios.values()))))
    for axes, (axis, cells) in zip(panels[0], ratios.items(), strict=True):
        for name, color in shades.items():
            mean, low, high = np.transpose(cells[name])
            told = name if axes is panels[0][0] else None
            axes.plot(intervals, mean, "o-", color=color, ms=3, lw=1.2, label=told)
            axes.fill_between(intervals, low, high, color=color, alpha=0.15, lw=0)
        axes.axhline(1, color="black", lw=0.8, ls="--")
        axes.set_yscale("log")
        axes.set_xticks(intervals, [str(n) for n in intervals])
        axes.set_xlabel("interval N")
        axes.set_title(f"{axis} axis", fontsize=10)
    panels[0][0].set_ylabel("cost, recursive / anchored")
    figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    save(figure, path)


SOLVERS = Outline("Solvers", ("demo",), *asking(dataset, QUESTIONS, draw), CAPTIONS)
