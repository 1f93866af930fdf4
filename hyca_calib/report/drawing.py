"""How every picture looks, and how it is written."""

from pathlib import Path

import matplotlib

from hyca_calib.records.atomic import replacing

matplotlib.use("Agg")

from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, FAINT, ACCENT = "#1b2a41", "#d9e2ec", "#e4572e"


def bare(axes: Axes) -> None:
    """Leave out the frame above and on the right."""
    axes.spines[["top", "right"]].set_visible(False)


def save(figure: Figure, path: Path, dpi: int = 130, svg: bool = False) -> None:
    """Write a figure as PNG, whole or not at all, and as SVG beside it if it is to be a part of a page; close it."""
    with replacing(path) as partial:
        figure.savefig(partial, dpi=dpi, format="png")
    if svg:
        with (
            replacing(path.with_suffix(".svg")) as partial,
            pyplot.rc_context({"svg.fonttype": "none", "svg.hashsalt": path.stem}),
        ):
            figure.savefig(partial, metadata={"Date": None}, format="svg")
    pyplot.close(figure)
