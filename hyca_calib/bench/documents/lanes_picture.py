"""Lanes, plans, both and fewer steps in one picture."""

from pathlib import Path
from typing import Any

from matplotlib import pyplot

from hyca_calib.lanes.measure import Kind
from hyca_calib.lanes.results import LanesTable
from hyca_calib.report.drawing import ACCENT, INK, bare, save

LOOKS: dict[Kind, tuple[str, str]] = {
    "fewer steps": ("#9aa5b1", "s:"),
    "lanes": ("#2a9d8f", "^--"),
    "plan": (INK, "o-"),
    "both": (ACCENT, "D-"),
}
"""The colour and the line of each kind."""
FAINT: dict[str, Any] = {"s": 14, "alpha": 0.35, "lw": 0}
TICKS = (4, 6, 8, 10, 12, 16, 20, 30, 50)


def draw_lanes(found: LanesTable, names: dict[Kind, str], path: Path) -> None:
    """Agreement with the exact sampler over computed passes; of each kind its best rows as a line, others faint."""
    figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    for kind, (color, style) in LOOKS.items():
        rows = [row for row in found.rows if row.kind == kind and row.computed_passes < found.num_steps]
        best = [
            row
            for row in rows
            if row.mean_db >= max(r.mean_db for r in rows if r.computed_passes <= row.computed_passes)
        ]
        axes.scatter([r.computed_passes for r in rows], [r.mean_db for r in rows], color=color, **FAINT)
        line = sorted((row.computed_passes, row.mean_db) for row in best)
        axes.plot(*zip(*line, strict=True), style, color=color, ms=5, label=names[kind]) if line else None
    axes.scatter([], [], color=INK, label="a worse way of the same kind", **FAINT)
    axes.set_xscale("log")
    axes.set_xticks(TICKS, [str(tick) for tick in TICKS])
    axes.minorticks_off()
    axes.set(xlabel="computed passes, one after another", ylabel="agreement with the exact sampler, dB")
    axes.legend(frameon=False)
    bare(axes)
    save(figure, path)
