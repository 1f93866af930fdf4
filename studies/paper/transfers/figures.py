"""The picture of the chapter."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

from hyca_calib.metrics import interval
from studies.paper.transfers.verdicts import WAYS

matplotlib.use("Agg")

from matplotlib import pyplot

COLOURS = {"plan": "#e4572e", "closed": "#f3a712", "refit": "#76b041", "redo": "#17bebb", "redone": "#1b2a41"}


def draw(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """PSNR of every way in every situation, with 95 % intervals."""
    figure, axes = pyplot.subplots(figsize=(9, 1.2 + 0.5 * len(rows)), layout="constrained")
    for i, (way, label) in enumerate(WAYS.items()):
        known = [(place, interval(row["psnr_db"][way])) for place, row in enumerate(rows) if way in row["psnr_db"]]
        means = [mean for _, (mean, _, _) in known]
        errors = [[m - low for _, (m, low, _) in known], [high - m for _, (m, _, high) in known]]
        places = [place + 0.13 * (i - 2) for place, _ in known]
        axes.errorbar(means, places, xerr=errors, fmt="o", markersize=4, color=COLOURS[way], label=label)
    axes.set_yticks(range(len(rows)), [row["name"] for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel("PSNR of final latents, dB")
    axes.grid(axis="x", alpha=0.3)
    axes.legend(fontsize=8)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)
