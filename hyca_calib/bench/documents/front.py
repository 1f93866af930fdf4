"""All methods of a comparison in one picture."""

import itertools
from collections.abc import Sequence
from pathlib import Path

from matplotlib import colormaps, pyplot

from hyca_calib.baselines.score import Score
from hyca_calib.bench.choice import SPARING
from hyca_calib.costs.same_cost import MORE
from hyca_calib.quality.metrics import Measure
from hyca_calib.report.drawing import ACCENT, bare, save

COLORS = {
    "fewer steps": "#7f7f7f",
    "DPM-Solver++": "#1f77b4",
    "UniPC": "#9edae5",
    "Heun": "#17becf",
    "TaylorSeer": "#2ca02c",
    "FirstBlockCache": "#9467bd",
    "MagCache": "#8c564b",
    "SmoothCache": "#bcbd22",
    "DiCache": "#d62728",
    "FORA": "#e377c2",
    "HyCa as published": "#f2a541",
}
OTHERS = (*colormaps["tab20b"].colors, *colormaps["tab20c"].colors)  # type: ignore[attr-defined]
"""Of families without a colour of their own, in turn."""
TICKS = (SPARING, 2, 3, 4, 5, 6, 7, 8, 10, 12)


def draw_front(
    plans: Sequence[Score],
    baselines: Sequence[Score],
    path: Path,
    tried: Sequence[Score] = (),
    measure: Measure = "PSNR",
) -> None:
    """Agreement with the full run over the FLOPs ratio: plans as a line, every family of baselines in a colour.

    Args:
        tried: settings of baselines in their sweeps, which are faint.
    """
    figure, axes = pyplot.subplots(figsize=(13, 5.5), layout="constrained")
    spare = itertools.cycle(OTHERS)
    for family in dict.fromkeys([*COLORS, *(score.family for score in (*baselines, *tried))]):
        faint, measured = _points(tried, family), _points(baselines, family)
        if not faint[0] + measured[0]:
            continue
        color = COLORS.get(family) or next(spare)
        axes.scatter(*faint, s=9, color=color, alpha=0.35, linewidths=0)
        if measured[0]:
            axes.scatter(*measured, s=26, color=color, label=family, zorder=3)
    if plans:
        axes.plot(*_points(plans), "o-", color=ACCENT, ms=8, lw=2, label="HyCa, searched", zorder=4)
    axes.set_xscale("log")
    axes.set_xticks(TICKS, [f"{tick:g}" for tick in TICKS])
    axes.minorticks_off()
    axes.set(xlabel="FLOPs of the full run over the method's", ylabel=f"{measure} to the full run, dB", xlim=(1.25, 14))
    if shown := _points([*plans, *baselines])[1]:
        axes.set_ylim(bottom=min(shown) - 2)
    bare(axes)
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles[::-1], labels[::-1], loc="outside right upper", fontsize=8, frameon=False, ncols=2)
    save(figure, path)


def _points(scores: Sequence[Score], family: str | None = None) -> tuple[list[float], list[float]]:
    """FLOPs ratios and agreement of the settings that spare something, cheapest last."""
    wanted = [score for score in scores if score.flops_ratio >= SPARING / MORE and family in (None, score.family)]
    ranked = sorted(wanted, key=lambda score: score.flops_ratio)
    return [score.flops_ratio for score in ranked], [score.mean_db for score in ranked]
