"""All methods in one picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib

from hyca_calib.bench.run import Row
from hyca_calib.bench.table import SPARING

matplotlib.use("Agg")

from matplotlib import pyplot

__all__ = ["draw_front"]

ACCENT = "#e4572e"


def draw_front(rows: Sequence[Row], path: Path) -> None:
    """PSNR to the full run over the FLOPs ratio: plans as a line, every family of peers in a colour."""
    figure, axes = pyplot.subplots(figsize=(9, 5.5), layout="constrained")
    colours = iter(pyplot.get_cmap("tab20").colors[2:])  # type: ignore[attr-defined]
    for family in dict.fromkeys(row.family for row in rows if not row.ours):
        points = _points([row for row in rows if row.family == family])
        if points:
            across, up = zip(*points, strict=True)
            axes.scatter(across, up, s=26, color=next(colours), label=family, zorder=3)
    if plans := _points([row for row in rows if row.ours]):
        across, up = zip(*plans, strict=True)
        axes.plot(across, up, "o-", color=ACCENT, ms=8, lw=2, label="HyCa", zorder=4)
    axes.set_xscale("log")
    ticks = (SPARING, 2, 3, 4, 5, 6, 7, 8, 10)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set(xlabel="FLOPs of the full run over the method's", ylabel="PSNR to the full run, dB")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(fontsize=8, frameon=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def _points(rows: Sequence[Row]) -> list[tuple[float, float]]:
    """FLOPs ratio and PSNR of those that were measured and spare something, cheapest last."""
    found = [(row.result.flops_ratio, row.result.psnr_db) for row in rows if row.result]
    return sorted(point for point in found if point[0] >= SPARING)
