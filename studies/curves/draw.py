"""Learning curves as a picture."""

import statistics
from pathlib import Path

from matplotlib import pyplot

from hyca_calib.report.drawing import bare, save
from studies.curves.points import Curves, verdict

SPLITS = {"fit_db": ":", "select_db": "--", "test_db": "-"}


def draw_curves(curves: Curves, path: Path) -> None:
    """Agreement over iterations, a colour for each number of prompts and a stroke for each split."""
    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    for number, prompts in enumerate(sorted({point.prompts for point in curves.points})):
        points = sorted((p for p in curves.points if p.prompts == prompts), key=lambda point: point.iterations)
        for split, stroke in SPLITS.items():
            means = [statistics.fmean(getattr(point, split)) for point in points]
            label = f"{prompts} prompts, {split.removesuffix('_db')}"
            axes.plot([p.iterations for p in points], means, stroke, color=f"C{number}", marker=".", label=label)
    measured = sorted({point.iterations for point in curves.points})
    axes.set_xscale("symlog", linthresh=20)
    axes.set_xticks(measured, list(map(str, measured)))
    axes.set(xlabel="iterations of refinement", ylabel="agreement with the full run, latents, dB")
    axes.set_title(f"{curves.model}, {curves.budget}, {curves.point}\n{verdict(curves)}", fontsize=8)
    axes.legend(fontsize=7, handlelength=4)
    bare(axes)
    save(figure, path)
