"""Pictures of a plan: when it computes, where it errs, how channels move, what it draws.

Each is written twice: PNG for Markdown, SVG for the page.
"""

import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from torch import Tensor

from hyca_calib.report.drawing import ACCENT, FAINT, INK, bare, save
from hyca_calib.report.looks import error_shown, shown
from hyca_calib.report.steps import computed_by_chunk
from hyca_calib.report.tiles import AMPLIFY
from hyca_calib.report.wall import Tile, Wall
from hyca_calib.search.problem import Problem
from hyca_calib.search.replay import forecast_error
from hyca_runtime import Plan
from hyca_runtime.network_plan import NetworkPlan


def schedule_strip(plan: Plan, path: Path) -> None:
    """One cell per step: filled where the network is computed; a row for each of several points, or sections."""
    rows, steps = computed_by_chunk(plan), plan.sections[0].schedule.num_steps
    labelled = sorted({step for section in plan.sections for step in section.schedule.computed_steps})
    figure, axes = pyplot.subplots(figsize=(9, 0.65 + 0.25 * len(rows)))
    for row, computed in enumerate(rows.values()):
        axes.bar(range(steps), 0.9, bottom=row, width=0.9, color=[INK if runs else FAINT for runs in computed])
    axes.set(xlim=(-0.6, steps - 0.4), ylim=(len(rows), 0), xlabel="sampler step (dark: computed)")
    axes.set_yticks([row + 0.45 for row in range(len(rows))] if len(rows) > 1 else [], [*rows] if len(rows) > 1 else [])
    axes.set_xticks(_spread(labelled, steps / 40))
    _finish(figure, axes, path)


def _spread(places: Sequence[int], apart: float) -> list[int]:
    """The places whose labels do not touch, from the left."""
    kept: list[int] = []
    for place in places:
        if not kept or place - kept[-1] > apart:
            kept.append(place)
    return kept


def error_by_step_and_group(problem: Problem, section: NetworkPlan) -> NDArray[np.float64]:
    """Replayed squared error of each predicted step, relative to the feature's energy, ``(group, step)``."""
    table = np.full((len(section.forecast.groups_of()), section.schedule.num_steps), np.nan)
    for step, taps in section.taps().items():
        error = forecast_error(problem.select, taps.weights.T.astype(np.float64), taps.history, step)
        for g, group in enumerate(section.forecast.groups_of()):
            table[g, step] = error[group.indices].sum() / problem.select[group.indices, step, step].sum()
    return table


def error_map(problem: Problem, section: NetworkPlan, path: Path) -> None:
    """Heat map of `error_by_step_and_group`; computed steps stay white."""
    table = error_by_step_and_group(problem, section)
    figure, axes = pyplot.subplots(figsize=(9, 0.6 + 0.22 * len(table)))
    with np.errstate(divide="ignore"):
        shades = axes.imshow(np.log10(table), aspect="auto", cmap="magma", interpolation="nearest")
    figure.colorbar(shades, ax=axes, label="log10 relative error", fraction=0.03)
    axes.set(xlabel="sampler step (white: computed)")
    axes.set_yticks(range(len(table)), [str(g.indices.size) for g in section.forecast.groups_of()], fontsize=7)
    axes.set_ylabel("group (its size)")
    _finish(figure, axes, path)


def trajectories(problem: Problem, section: NetworkPlan, path: Path, most: int = 6) -> None:
    """One channel of each of the largest groups: the full run's line, the plan's forecasts as dots."""
    groups = sorted(section.forecast.groups_of(), key=lambda g: -g.indices.size)[:most]
    feature = problem.trace.values("select", 1)[0, 0, :, 0]
    figure, grid = pyplot.subplots(2, 3, figsize=(9, 3.6), sharex=True)
    for axes, group in zip(grid.flat, groups, strict=False):
        energy = problem.select[group.indices].trace(axis1=1, axis2=2)
        channel = int(group.indices[int(np.argsort(energy)[len(energy) // 2])])
        line = feature[:, channel]
        axes.plot(line, color=INK, lw=1)
        for step, taps in section.taps().items():
            axes.plot(step, taps.weights[:, channel] @ line[list(taps.history)], ".", color=ACCENT, ms=4)
        axes.set_title(f"{group.name}, channel {channel}", fontsize=8)
        axes.tick_params(labelsize=7)
    for axes in list(grid.flat)[len(groups) :]:
        axes.axis("off")
    _finish(figure, grid.flat[0], path)


def trials_plot(costs: Sequence[float], rollouts: Sequence[float], path: Path) -> None:
    """What the search tried: replayed costs of distinct schedules, latent PSNR of real rollouts."""
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 2.4))
    left.plot(sorted(costs), "o-", color=INK, ms=3, lw=1)
    left.set(
        xlabel="distinct schedules, best first", ylabel="replayed cost", yscale="log" if min(costs) > 0 else "linear"
    )
    if rollouts:
        right.plot(rollouts, ".", color=FAINT, ms=5)
        right.plot(np.maximum.accumulate(rollouts), color=ACCENT, lw=1.5)
        right.set(xlabel="rollouts on the select split", ylabel="latent PSNR dB, unrefined")
    else:
        right.axis("off")
    _finish(figure, left, path)


def agreement_map(names: Sequence[str], table: NDArray[np.float64], path: Path) -> None:
    """Adjusted Rand index of groupings found on other samples, seeds and parts of the run."""
    figure, axes = pyplot.subplots(figsize=(4.6, 3.8))
    axes.imshow(table, vmin=0, vmax=1, cmap="Blues")
    for (row, column), value in np.ndenumerate(table):
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", color="white" if value > 0.6 else INK)
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right", fontsize=8)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    _finish(figure, axes, path)


def front_plot(wall: Wall, others: Sequence[tuple[float, float]], path: Path) -> None:
    """Agreement over compute: this plan, plans of other budgets, baselines.

    Args:
        others: FLOPs ratio and agreement in dB of the plans beside this one.
    """
    figure, axes = pyplot.subplots(figsize=(6, 3.2))
    line = sorted([*others, (wall.plan.flops_ratio, wall.plan.mean_db)])
    axes.plot(*zip(*line, strict=True), "o-", color=ACCENT, lw=1.2, ms=4)
    axes.plot(wall.plan.flops_ratio, wall.plan.mean_db, "o", color=ACCENT, ms=9)
    axes.annotate("plan", (wall.plan.flops_ratio, wall.plan.mean_db), (7, -3), textcoords="offset points", color=ACCENT)
    for tile in wall.baselines:
        axes.plot(tile.flops_ratio, tile.mean_db, "s", color=INK, ms=5)
        axes.annotate(tile.name, (tile.flops_ratio, tile.mean_db), (7, -3), textcoords="offset points", fontsize=8)
    axes.set(xlabel="times fewer FLOPs than the full run", ylabel=f"{wall.measure} to it, dB")
    axes.margins(x=0.25, y=0.15)
    _finish(figure, axes, path)


def picture_wall(wall: Wall, path: Path) -> None:
    """Every way in a row, its error below it; of clips the middle frame."""
    count = len(wall.captions)
    rows: list[tuple[str, Tile, Callable[[Tensor, Tensor], Tensor], tuple[float, ...]]] = []
    for tile in wall.columns:
        rows.append((f"{tile.name}\n{textwrap.fill(tile.told, 20)}", tile, shown, tile.agreement_db))
        if tile.agreement_db:
            rows.append((f"its error\nx {AMPLIFY}", tile, error_shown, ()))
    figure, grid = pyplot.subplots(
        len(rows), count, figsize=(1.1 * count + 0.4, 1.22 * len(rows)), squeeze=False, layout="constrained"
    )
    for r, (title, tile, look, agreement) in enumerate(rows):
        for c in range(count):
            axes = grid[r][c]
            clip = look(tile.samples[c], wall.full.samples[c])
            axes.imshow(clip[len(clip) // 2].permute(1, 2, 0).numpy(), interpolation="nearest")
            axes.set(xticks=[], yticks=[])
            for spine in axes.spines.values():
                spine.set_visible(False)
            if r == 0:
                axes.set_title(wall.captions[c][:18], fontsize=7)
            if agreement:
                axes.set_xlabel(f"{agreement[c]:.1f} dB", fontsize=7, labelpad=1)
        grid[r][0].set_ylabel(title, fontsize=7)
    save(figure, path)


def _finish(figure: Figure, axes: Axes, path: Path) -> None:
    bare(axes)
    figure.tight_layout(pad=0.5)
    save(figure, path, svg=True)
