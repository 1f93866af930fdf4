"""A one-step formula in a gap of many steps: straight to each target, or step by step on its own forecasts?"""

from __future__ import annotations

from typing import Any

import numpy as np

from studies.paper.chapter import Claim, Part, Table
from studies.paper.effects import Ratio
from studies.paper.formulas.dataset import CLOSED, Dataset, Use, closed_rows, noise_gain
from studies.paper.ruling import above, all_above, below, ruled, told

Cells = dict[str, list[Ratio]]
Noise = dict[str, tuple[float, float]]


def multistep(s: Dataset) -> Part:
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
    return Part(tables, numbers, (text,))


def _differs(s: Dataset, label: str) -> bool:
    """Whether the two uses have other weights on any axis, at any interval."""
    solver, setups = CLOSED[label], [s.setup(interval, axis) for axis in s.axes for interval in s.intervals]
    return not all(
        np.allclose(anchored, recursive, rtol=1e-6, atol=1e-6)
        for setup in setups
        for anchored, recursive in zip(closed_rows(solver, setup), closed_rows(solver, setup, "recursive"), strict=True)
    )


def _noise(s: Dataset, label: str, axis: str) -> tuple[float, float]:
    """Mean sum of absolute weights at the longest interval, anchored and recursive."""
    solver, setup = CLOSED[label], s.setup(s.intervals[-1], axis)
    return noise_gain(closed_rows(solver, setup)), noise_gain(closed_rows(solver, setup, "recursive"))


def _table(s: Dataset, axis: str, cells: Cells, noise: Noise) -> Table:
    caption = (
        f"Held-out cost of recursive over anchored use on the {axis} axis, with 95 % interval over prompts; and the "
        f"mean sum of absolute weights at N = {s.intervals[-1]}."
    )
    head = ("solver", *s.head, "anchored noise", "recursive noise")
    return Table.of(caption, head, {label: [*map(told, of), *noise[label]] for label, of in cells.items()})


def claims(found: dict[str, Any]) -> tuple[Claim, ...]:
    """Verdicts of the numbers of `multistep`."""
    longest, cells, noise = found["intervals"][-1], found["recursive_over_anchored"], found["noise_at_longest"]
    return (
        ruled(
            "Recursive one-step use costs more than anchored use at the longest interval (on every axis, every solver "
            "whose uses differ).",
            lambda: (
                all_above((ratios[-1] for of in cells.values() for ratios in of.values()), 1),
                f"at N = {longest}, "
                + "; ".join(_evidence(axis, of, noise[axis]) for axis, of in cells.items())
                + ". Where the sum is smaller, the recursion reaches less far than the anchored forecast and is less "
                "noisy.",
            ),
        ),
    )


def _evidence(axis: str, cells: Cells, noise: Noise) -> str:
    dearer = {label: ratios[-1][0] for label, ratios in cells.items() if above(ratios[-1], 1)}
    cheaper = {label: ratios[-1][0] for label, ratios in cells.items() if below(ratios[-1], 1)}
    quieter = [label for label in dearer if noise[label][1] < noise[label][0]]

    def listed(found: dict[str, float]) -> str:
        return ", ".join(f"{label} {ratio:.2f}" for label, ratio in found.items()) or "none"

    return (
        f"{axis} axis dearer: {listed(dearer)} (for {len(quieter)} of these {len(dearer)} the sum of absolute weights "
        f"is smaller than in anchored use); cheaper: {listed(cheaper)}"
    )
