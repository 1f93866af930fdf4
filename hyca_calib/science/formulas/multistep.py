"""A one-step formula in a gap of many steps: straight to each target, or step by step on its own forecasts?"""

from __future__ import annotations

import numpy as np

from hyca_calib.science.chapter import Claim, Table
from hyca_calib.science.formulas.ground import CLOSED, Ground, Ratio, Use, closed_rows, noise_gain
from hyca_calib.science.groups.subject import Part, row, told, verdict

__all__ = ["multistep"]

Cells = dict[str, list[Ratio]]
Noise = dict[str, tuple[float, float]]


def multistep(s: Ground) -> Part:
    """Cost and noise of recursive over anchored use, on every axis."""
    same = [label for label in CLOSED if not _differs(s, label)]
    apart = [label for label in CLOSED if label not in same]
    found: dict[str, Cells] = {
        axis: {label: s.ratios(s.costs[Use(label, axis, "recursive")], s.costs[Use(label, axis)]) for label in apart}
        for axis in s.axes
    }
    noise = {axis: {label: _noise(s, label, axis) for label in apart} for axis in s.axes}
    numbers = {
        "recursive_over_anchored": found,
        "noise_at_longest": noise,
        "same": same,
        "intervals": list(s.intervals),
    }
    text = (
        f"Used recursively {', '.join(same)} forecast the same, as polynomials through their own forecasts do. A "
        "dynamic mode that reads its own forecasts finds itself again, unless its growth was damped, and has no "
        "recursive form in the runtime."
    )
    tables = tuple(_table(s, axis, cells, noise[axis]) for axis, cells in found.items())
    return Part((text,), tables, (_claim(s, found, noise),), numbers)


def _differs(s: Ground, label: str) -> bool:
    """Whether the two uses have other weights on any axis, at any interval."""
    solver, arenas = CLOSED[label], [s.arena(interval, axis) for axis in s.axes for interval in s.intervals]
    return not all(
        np.allclose(anchored, recursive, rtol=1e-6, atol=1e-6)
        for arena in arenas
        for anchored, recursive in zip(closed_rows(solver, arena), closed_rows(solver, arena, "recursive"), strict=True)
    )


def _noise(s: Ground, label: str, axis: str) -> tuple[float, float]:
    """Mean sum of absolute weights at the longest interval, anchored and recursive."""
    arena = s.arena(s.intervals[-1], axis)
    return (
        noise_gain(closed_rows(CLOSED[label], arena)),
        noise_gain(closed_rows(CLOSED[label], arena, "recursive")),
    )


def _table(s: Ground, axis: str, cells: Cells, noise: Noise) -> Table:
    rows = tuple(row(label, *map(told, ratios), *noise[label]) for label, ratios in cells.items())
    caption = (
        f"Held-out cost of recursive over anchored use on the {axis} axis, with 95 % interval over prompts; and the "
        f"mean sum of absolute weights at N = {s.intervals[-1]}."
    )
    return Table(caption, ("solver", *(f"N = {n}" for n in s.intervals), "anchored noise", "recursive noise"), rows)


def _claim(s: Ground, found: dict[str, Cells], noise: dict[str, Noise]) -> Claim:
    middle = len(s.intervals) // 2
    grows = [
        ratios[-1][1] > 1 and ratios[-1][0] > ratios[middle][0] for cells in found.values() for ratios in cells.values()
    ]
    return Claim(
        "Recursive one-step use amplifies errors as the gap grows (on every axis every solver whose uses differ is "
        "dearer than in anchored use at the longest interval, and more so than at the middle one).",
        verdict(grows),
        f"at N = {s.intervals[-1]}, "
        + "; ".join(_evidence(axis, cells, noise[axis]) for axis, cells in found.items())
        + ". Where the sum is smaller, the recursion reaches less far than the anchored forecast and is less noisy.",
    )


def _evidence(axis: str, cells: Cells, noise: Noise) -> str:
    dearer = {label: ratios[-1][0] for label, ratios in cells.items() if ratios[-1][1] > 1}
    cheaper = {label: ratios[-1][0] for label, ratios in cells.items() if ratios[-1][2] < 1}
    quieter = [label for label in dearer if noise[label][1] < noise[label][0]]

    def listed(found: dict[str, float]) -> str:
        return ", ".join(f"{label} {ratio:.2f}" for label, ratio in found.items()) or "none"

    return (
        f"{axis} axis dearer: {listed(dearer)} (for {len(quieter)} of these {len(dearer)} the sum of absolute weights "
        f"is smaller than in anchored use); cheaper: {listed(cheaper)}"
    )
