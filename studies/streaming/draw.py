"""The study as a picture."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib import pyplot
from matplotlib.axes import Axes

from hyca_calib.report.drawing import bare, save
from studies.streaming.notebook import Numbers


def draw_study(chapters: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    """Agreement by chunk-forwards, by budget and by kept keys, and seconds by chunk."""
    figure, panels = pyplot.subplots(2, 2, figsize=(10, 7), layout="constrained")
    (one, two), (three, four) = panels
    lines: Mapping[str, Mapping[str, Numbers]] = {name: chapter["lines"] for name, chapter in chapters.items()}
    for name in ("by chunk", "one for all"):
        found = [of for line, of in lines.get("decisions", {}).items() if line.startswith(name)]
        points = sorted((of["forwards"], of["mean_db"]) for of in found)
        one.plot(*zip(*points, strict=True), marker=".", label=name) if points else None
    _label(one, "decisions of FlowCache", "share of chunk-forwards")
    _by_number(two, lines.get("plans", {}))
    _label(two, "plans", "budget")
    _by_number(three, lines.get("keys", {}))
    _label(three, "keys and values", "chunks that are kept")
    for name, of in lines.get("growth", {}).items():
        four.plot(range(len(of["seconds"])), of["seconds"], marker=".", label=name)
    _label(four, "a long clip", "chunk", "seconds")
    save(figure, path)


def _by_number(axes: Axes, lines: Mapping[str, Numbers]) -> None:
    """A stroke for each name, over the number that ends its lines."""
    strokes: dict[str, list[tuple[float, float]]] = {}
    for line, of in lines.items():
        if "mean_db" in of:
            name, _, number = line.rpartition(" ")
            strokes.setdefault(name, []).append((float(number.rstrip("x")), of["mean_db"]))
    for name, points in strokes.items():
        axes.plot(*zip(*sorted(points), strict=True), marker=".", label=name)


def _label(axes: Axes, title: str, below: str, left: str = "agreement with the full run, latents, dB") -> None:
    axes.set(title=title, xlabel=below, ylabel=left)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=7)
    bare(axes)
