"""All methods in one picture."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import matplotlib

from hyca_calib.bench import SPARING
from hyca_calib.peers.score import Score

matplotlib.use("Agg")

from matplotlib import pyplot

__all__ = ["pareto"]

COLORS = {
    "fewer steps": "#7f7f7f",
    "DPM-Solver++": "#1f77b4",
    "Heun": "#17becf",
    "TaylorSeer": "#2ca02c",
    "FirstBlockCache": "#9467bd",
    "MagCache": "#8c564b",
}
OTHERS = ("#bcbd22", "#e377c2", "#aec7e8", "#c5b0d5", "#c49c94", "#98df8a", "#9edae5")
"""Of families without a colour of their own, in turn."""
ACCENT, RECIPE = "#e4572e", "#f2a541"


def pareto(
    ours: Sequence[Score], presets: Sequence[Score], peers: Sequence[Score], screened: Sequence[Score], path: Path
) -> None:
    """PSNR to the full run over the FLOPs ratio: measured methods, and faint all settings on the select split."""
    figure, axes = pyplot.subplots(figsize=(9, 5.5), layout="constrained")
    families = dict.fromkeys([*COLORS, *(score.family for score in (*peers, *screened) if not score.error)])
    spare = itertools.cycle(OTHERS)
    for family in families:
        color = COLORS.get(family) or next(spare)
        faint = [s for s in screened if s.family == family and s.flops_ratio >= SPARING]
        axes.scatter(*_points(faint), s=9, color=color, alpha=0.35, linewidths=0)
        if measured := [s for s in peers if s.family == family and s.flops_ratio >= SPARING]:
            axes.scatter(*_points(measured), s=26, color=color, label=family, zorder=3)
    axes.scatter(*_points(presets), s=26, marker="D", color=RECIPE, label="published recipes", zorder=3)
    ranked = sorted(ours, key=lambda score: score.flops_ratio)
    axes.plot(*_points(ranked), "o-", color=ACCENT, ms=8, lw=2, label="HyCa, searched", zorder=4)
    axes.set_xscale("log")
    ticks = (SPARING, 2, 3, 4, 5, 6, 7, 8, 10)
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set(xlabel="FLOPs of the full run over the method's", ylabel="PSNR to the full run (dB)", xlim=(1.4, 12))
    axes.set_ylim(bottom=min(s.mean_db for s in (*ours, *presets, *peers) if not s.error) - 2)
    axes.legend(fontsize=8, frameon=False, loc="lower left")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=130)
    pyplot.close(figure)


def _points(scores: Sequence[Score]) -> tuple[list[float], list[float]]:
    return [score.flops_ratio for score in scores], [score.mean_db for score in scores]
