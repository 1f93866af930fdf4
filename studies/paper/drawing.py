"""How every picture of the study is drawn."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import pyplot

from hyca_calib.report.drawing import ACCENT, FAINT, INK, bare, save
from hyca_calib.search.replay import Array

__all__ = ["ACCENT", "FAINT", "GREEN", "GREY", "INK", "bare", "colours", "heat_maps", "save", "subplots"]

GREEN, GREY = "#4c956c", "#7d8597"


def subplots(rows: int, columns: int, size: tuple[float, float], **options: Any) -> tuple[Any, Any]:
    """A figure and its panels ``(row, column)``."""
    figure, panels = pyplot.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False, **options)
    return figure, panels


def colours(names: Sequence[str], wheel: str = "tab20") -> dict[str, Any]:
    """A colour for each name; they come again after a turn of the wheel."""
    found = pyplot.get_cmap(wheel)
    return {name: found(i % found.N) for i, name in enumerate(names)}


def heat_maps(
    tables: Mapping[str, Array],
    rows: Sequence[str],
    columns: Sequence[int],
    tell: Callable[[float], str],
    bold: Callable[[Array], Any],
    path: Path,
    labels: tuple[str, str],
    **shades: Any,
) -> None:
    """A panel for each table ``(row, column)``, with the numbers in their cells.

    Args:
        tell, bold: what stands in the cell of a value, and which cells of a table are bold.
        labels: of the columns and of the colour bar.
    """
    size = (2.2 + 3.9 * len(tables) ** 0.75, 1.4 + 0.3 * len(rows))
    figure, panels = subplots(1, len(tables), size, sharey=True)
    shown = None
    for axes, (title, table) in zip(panels[0], tables.items(), strict=True):
        shown = axes.imshow(table, aspect="auto", **shades)
        for at, strong in np.ndenumerate(bold(table)):
            weight = "bold" if strong else "normal"
            axes.text(at[1], at[0], tell(float(table[at])), ha="center", va="center", fontsize=7.5, weight=weight)
        axes.set_xticks(range(len(columns)), [str(n) for n in columns])
        axes.set_xlabel(labels[0])
        axes.set_title(title, fontsize=10)
    panels[0][0].set_yticks(range(len(rows)), rows, fontsize=8)
    figure.colorbar(shown, ax=panels[0].tolist(), label=labels[1], fraction=0.03)
    save(figure, path)
