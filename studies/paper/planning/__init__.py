"""Offline search for schedules: what is optimal, what it costs to know, and how that grows."""

from pathlib import Path

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import ListedColormap

from hyca_calib.quality.metrics import interval
from studies.paper.chapter import Context, Numbers, Outline, Question, asking
from studies.paper.drawing import ACCENT, FAINT, GREEN, GREY, INK, save, subplots
from studies.paper.planning import comparison, speed
from studies.paper.planning.comparison import ANNEALING, EVEN, EXACT, RULE
from studies.paper.planning.instance import Instance, instance

QUESTIONS: dict[str, Question[Instance]] = {
    "contest": (comparison.comparison, comparison.rulings),
    "front": (comparison.front, comparison.front_rulings),
    "throughput": (speed.throughput, None),
    "growth": (speed.growth, None),
    "full_size": (speed.full_size, None),
}
FRONT, OPTIMA, GROWTH = "schedules-front.png", "schedules-optimal.png", "schedules-growth.png"
CAPTIONS = {
    FRONT: "Left: replayed cost over the FLOPs ratio, every point from the same table of gap costs. Right: how far a "
    "run of annealing ends above the optimum, by the schedules it scores (mean and 95 % interval over runs).",
    OPTIMA: "The optimal schedule for every number of computed steps.",
    GROWTH: "Time and memory of the exact search on synthetic trajectories, each axis varied on its own.",
}
STYLES = {EXACT: ("o-", ACCENT), ANNEALING: ("x:", INK), RULE: ("s--", GREEN), EVEN: ("^--", GREY)}


def draw(context: Context, s: Instance, numbers: Numbers) -> None:
    """All three figures."""
    front_plot(numbers["front"]["lines"], numbers["contest"]["runs"], s.seed, context.folder / FRONT)
    optimal_steps(numbers["contest"]["optimum"], context.folder / OPTIMA)
    growth_plot(numbers["growth"]["measured"], context.folder / GROWTH)


def front_plot(lines: dict[str, list[list[float]]], runs: list[Numbers], seed: int, path: Path) -> None:
    """Left: cost over FLOPs ratio. Right: how far annealing ends above the optimum, over its evaluations."""
    figure, ((left, right),) = subplots(1, 2, (11, 4.2))
    for name, points in lines.items():
        style, color = STYLES[name]
        _, ratios, costs = zip(*points, strict=True)
        left.plot(ratios, costs, style, color=color, ms=4, lw=1.2, label=name)
    left.set(yscale="log", xlabel="FLOPs of the full run / of the accelerated one", ylabel="replayed cost")
    left.legend(fontsize=8, frameon=False)
    annealed = [run for run in runs if run["method"] == ANNEALING]
    counts = sorted({run["steps"] for run in annealed})
    for color, count in zip(colormaps["viridis"](np.linspace(0, 0.85, len(counts))), counts, strict=True):
        of = [run for run in annealed if run["steps"] == count]
        mean, low, high = 100 * np.array([interval(run["excess"], seed) for run in of]).T
        spread = np.maximum((mean - low, high - mean), 0)
        evaluations = [run["evaluations"] for run in of]
        right.errorbar(evaluations, mean, spread, fmt="o-", color=color, ms=4, lw=1.2, label=f"{count} steps")
    right.set(xscale="log", xlabel="schedules scored by one run of annealing", ylabel="cost above the optimum (%)")
    right.set_yscale("symlog", linthresh=0.1)
    right.set_ylim(bottom=-0.02)
    right.axhline(0, color="black", lw=0.8, ls="--")
    right.legend(fontsize=8, frameon=False)
    save(figure, path)


def growth_plot(measured: dict[str, dict[str, dict[str, float]]], path: Path) -> None:
    """Seconds above, memory below, a column for each axis, log over log."""
    figure, panels = subplots(2, len(measured), (11, 5), sharey="row", sharex="col")
    for (above, below), (axis, costs) in zip(panels.T, measured.items(), strict=True):
        sizes = [int(n) for n in costs]
        above.plot(sizes, [cost["table"] for cost in costs.values()], "o-", color=ACCENT, ms=4, label="table")
        above.plot(sizes, [cost["search"] for cost in costs.values()], "s-", color=INK, ms=4, label="best schedules")
        below.plot(sizes, [cost["peak"] / 1e6 for cost in costs.values()], "o-", color=INK, ms=4)
        for axes in (above, below):
            axes.set(xscale="log", yscale="log")
            axes.set_xticks(sizes, [str(n) for n in sizes])
            axes.minorticks_off()
            axes.grid(axis="y", color=FAINT)
        below.set_xlabel({"gap": "longest gap"}.get(axis, axis))
    panels[0][0].set_ylabel("seconds of one core")
    panels[1][0].set_ylabel("peak memory, Gram apart (MB)")
    panels[0][0].legend(fontsize=8, frameon=False)
    save(figure, path)


def optimal_steps(optimum: dict[str, list[int]], path: Path) -> None:
    """A row for each number of computed steps, filled where the optimum computes."""
    most = len(optimum)
    table = np.zeros((most, most))
    for i, computed in enumerate(optimum.values()):
        table[i, computed] = 1
    figure, ((axes,),) = subplots(1, 1, (6.5, 5.5))
    axes.imshow(table, cmap=ListedColormap((FAINT, INK)), aspect="auto", extent=(-0.5, most - 0.5, most + 0.5, 0.5))
    axes.set(xlabel="sampler step (dark: computed)", ylabel="computed steps")
    save(figure, path)


SCHEDULES = Outline("Offline search for schedules", ("demo",), *asking(instance, QUESTIONS, draw), CAPTIONS)
