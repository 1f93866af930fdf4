"""Pictures of the chapter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot

from studies.paper.effects import Ratio
from studies.paper.groups.figures import save

__all__ = ["anchored_and_recursive", "cost_map"]

REACH = 1.0  # decades of the color scale on either side of hold


def cost_map(costs: dict[str, dict[str, list[Ratio]]], intervals: list[int], path: Path) -> None:
    """Log cost over hold of each solver at each interval, a panel for each axis."""
    names = list(next(iter(costs.values())))
    figure, panels = pyplot.subplots(
        1,
        len(costs),
        figsize=(2.2 + 3.9 * len(costs), 1.4 + 0.29 * len(names)),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    shades: Any = None
    for axes, (axis, cells) in zip(panels[0], costs.items(), strict=True):
        table = np.log10([[ratio[0] for ratio in cells[name]] for name in names])
        shades = axes.imshow(table, vmin=-REACH, vmax=REACH, cmap="RdYlBu_r", aspect="auto")
        for (i, j), value in np.ndenumerate(table):
            weight, cost = "bold" if np.isclose(value, table[:, j].min()) else "normal", 10**value
            axes.text(j, i, f"{cost:.{2 * (cost < 10)}f}", ha="center", va="center", fontsize=7.5, weight=weight)
        axes.set_xticks(range(len(intervals)), [str(n) for n in intervals])
        axes.set(xlabel="interval N", title=f"{axis} axis")
        axes.title.set_fontsize(10)
    panels[0][0].set_yticks(range(len(names)), names, fontsize=8)
    figure.colorbar(shades, ax=panels[0].tolist(), label="log10 of cost over hold (bold: best)", fraction=0.03)
    save(figure, path)


def anchored_and_recursive(ratios: dict[str, dict[str, list[Ratio]]], intervals: list[int], path: Path) -> None:
    """Cost of recursive over anchored use by interval, a panel for each axis."""
    figure, panels = pyplot.subplots(
        1, len(ratios), figsize=(2.6 + 4.2 * len(ratios), 4.2), sharey=True, squeeze=False, layout="constrained"
    )
    names = list(next(iter(ratios.values())))
    colors = dict(zip(names, pyplot.get_cmap("tab20")(np.arange(len(names)) % 20), strict=True))
    for axes, (axis, cells) in zip(panels[0], ratios.items(), strict=True):
        for name, color in colors.items():
            mean, low, high = np.transpose(cells[name])
            told = name if axes is panels[0][0] else None
            axes.plot(intervals, mean, "o-", color=color, ms=3, lw=1.2, label=told)
            axes.fill_between(intervals, low, high, color=color, alpha=0.15, lw=0)
        axes.axhline(1, color="black", lw=0.8, ls="--")
        axes.set_yscale("log")
        axes.set_xticks(intervals, [str(n) for n in intervals])
        axes.set(xlabel="interval N", title=f"{axis} axis")
        axes.title.set_fontsize(10)
    panels[0][0].set_ylabel("cost, recursive / anchored")
    figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    save(figure, path)
