"""Every solver of the pool at the published schedules: which is best, and on which axis?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

import numpy as np

from hyca_calib.science.chapter import Claim, Table
from hyca_calib.science.formulas.ground import Ground, Ratio, Use, closed_rows, logarithm, over
from hyca_calib.science.groups.subject import Part, told, verdict
from hyca_calib.solver_table import ALL_SOLVERS, SolverFacts, facts_of
from hyca_runtime.solvers import ClosedFormSolver, FoCa, Hermite, Newton, Taylor

__all__ = ["best_orders", "pool", "twins"]

RIVALS: dict[str, tuple[Callable[[int], ClosedFormSolver], ClosedFormSolver]] = {
    "HiCache of order 1": (lambda n: Hermite(1), Newton(1)),
    "HiCache of order 2": (lambda n: Hermite(2, gap_steps=n), Taylor(2)),
    "FoCa": (lambda n: FoCa(), Newton(1)),
}
"""As published, by interval, and TaylorSeer of the same order."""


def pool(s: Ground) -> Part:
    """Facts and held-out costs of every solver; its best axis; the best order."""
    facts = [facts_of(solver) for solver in ALL_SOLVERS]
    hold = s.costs[Use("hold", s.axes[0])]
    relative = {axis: {f.label: s.ratios(s.costs[Use(f.label, axis)], hold) for f in facts} for axis in s.axes}
    moved = {axis: {f.label: _moved(s, f.label, axis) for f in facts if f.depth > 1} for axis in s.axes[1:]}
    orders = {axis: best_orders(s, axis) for axis in s.axes}
    bests = {" or ".join(axes): s.best_closed(axes) for axes in dict.fromkeys((s.axes[:1], s.axes))}
    best = {name: list(zip(chosen, s.ratios(costs, hold), strict=True)) for name, (chosen, costs) in bests.items()}
    numbers = {
        "facts": [asdict(f) for f in facts],
        "intervals": list(s.intervals),
        "computed": [len(s.schedule(interval).computed_steps) for interval in s.intervals],
        "cost_over_hold": relative,
        "cost_over_step_axis": moved,
        "best_newton_order": orders,
        "best_closed": {name: [[*use, *found] for use, found in cells] for name, cells in best.items()},
    }
    tables = (_table(s, facts, relative, moved), _best_table(s, best))
    return Part((_text(s),), tables, (*_claims(s, moved, orders), _published(s)), numbers)


def best_orders(s: Ground, axis: str) -> list[int]:
    """The order of Newton's extrapolation, 0 for hold, that costs least at each interval."""
    labels = ("hold", *(f"newton order={order}" for order in range(1, 5)))
    totals = np.stack([s.costs[Use(label, axis)].sum(1) for label in labels])
    return [int(order) for order in totals.argmin(0)]


def twins(s: Ground) -> list[list[str]]:
    """Anchored closed forms by what they cost on all axes; those that cost the same are one formula here."""
    alike: dict[tuple[float, ...], list[str]] = {}
    for label in dict.fromkeys(use.solver for use in s.costs):
        costs = np.stack([s.costs[Use(label, axis)].sum(1) for axis in s.axes])
        alike.setdefault(tuple(np.round(logarithm(costs), 6).ravel()), []).append(label)
    return list(alike.values())


def _moved(s: Ground, label: str, axis: str) -> Ratio:
    """Cost on an axis over that on the papers', mean over intervals."""
    return over(s.costs[Use(label, axis)], s.costs[Use(label, s.axes[0])], s.seed)


def _table(
    s: Ground, facts: list[SolverFacts], relative: dict[str, dict[str, list[Ratio]]], moved: dict[str, dict[str, Ratio]]
) -> Table:
    rows = []
    for f in facts:
        noise = " / ".join(f"{value:.1f}" for value in f.noise) if f.noise else "-"
        cold = ", ".join(f"{order:.1f}" for order in f.cold) or "-"
        costs = [" / ".join(f"{relative[axis][f.label][i][0]:.3f}" for axis in s.axes) for i in range(len(s.intervals))]
        shifts = [told(moved[axis][f.label]) if f.label in moved[axis] else "-" for axis in moved]
        rows.append((f.label, str(f.depth), f"{f.order:.1f}", noise, cold, *costs, *shifts))
    head = ("solver", "features", "order", "noise at 1 / 4", "cold", *(f"N = {n}" for n in s.intervals))
    caption = (
        "Measured facts (order of the error in the gap; sum of absolute weights 1 and 4 gaps ahead; order with one, "
        "two ... features) and held-out replay cost over that of hold, one row of weights for all channels, three "
        f"first steps and then every N-th; on the axes {' / '.join(s.axes)}. Last: cost on another axis over that on "
        f"the {s.axes[0]} axis, geometric mean over N, with 95 % interval over prompts."
    )
    return Table(caption, head + tuple(f"{axis} over {s.axes[0]}" for axis in moved), tuple(rows))


def _best_table(s: Ground, best: dict[str, list[tuple[Use, Ratio]]]) -> Table:
    rows = tuple(
        (f"N = {n}", name, use.solver, use.axis, use.multistep, told(cost))
        for i, n in enumerate(s.intervals)
        for name, (use, cost) in ((name, cells[i]) for name, cells in best.items())
    )
    caption = "The closed form, axis and use that cost least on the fit prompts, and their held-out cost over hold."
    return Table(caption, ("schedule", "axes allowed", "closed form", "axis", "use", "cost over hold"), rows)


def _claims(s: Ground, moved: dict[str, dict[str, Ratio]], orders: dict[str, list[int]]) -> tuple[Claim, ...]:
    better = {axis: [label for label, found in cells.items() if found[2] < 1] for axis, cells in moved.items()}
    worse = {axis: [label for label, found in cells.items() if found[1] > 1] for axis, cells in moved.items()}
    labels = list(dict.fromkeys(label for cells in moved.values() for label in cells))
    evidence = [
        f"{axis} is better for {len(better[axis])} of {len(cells)} solvers, down to {told(min(cells.values()))} for "
        f"{min(cells, key=lambda label: cells[label])}, and worse for {len(worse[axis])}"
        + (f" ({', '.join(worse[axis])}), up to {told(max(cells.values()))}" if worse[axis] else "")
        for axis, cells in moved.items()
    ]
    return (
        Claim(
            f"The papers' {s.axes[0]} axis serves every solver best (no other axis costs less, mean over intervals).",
            verdict([not any(label in names for names in better.values()) for label in labels]),
            "; ".join(evidence) + ".",
        ),
        Claim(
            "The order that pays falls as the interval grows, on every axis.",
            verdict([found == sorted(found, reverse=True) and found[-1] < found[0] for found in orders.values()]),
            f"best order of Newton's extrapolation at N = {', '.join(map(str, s.intervals))}: "
            + "; ".join(f"{axis} {', '.join(map(str, found))}" for axis, found in orders.items())
            + ".",
        ),
    )


def _published(s: Ground) -> Claim:
    arenas = [s.arena(n) for n in s.intervals]
    found = {
        name: s.ratios(
            s.judge(s.one, [closed_rows(mine(n), a) for n, a in zip(s.intervals, arenas, strict=True)]),
            s.judge(s.one, [closed_rows(theirs, a) for a in arenas]),
        )
        for name, (mine, theirs) in RIVALS.items()
    }
    return Claim(
        f"HiCache and FoCa forecast better than TaylorSeer of the same order (at every interval, {s.axes[0]} axis).",
        verdict([ratio[2] < 1 for ratios in found.values() for ratio in ratios]),
        "; ".join(f"{name} {', '.join(f'{ratio[0]:.2f}' for ratio in ratios)}" for name, ratios in found.items())
        + f" of its cost at N = {', '.join(map(str, s.intervals))}.",
    )


def _text(s: Ground) -> str:
    prompts = s.one.judged.shape[0]
    same = [axis for axis in s.times if axis not in s.axes]
    alike = [" = ".join(names) for names in twins(s) if len(names) > 1]
    computed = ", ".join(f"{len(s.schedule(n).computed_steps)} (N = {n})" for n in s.intervals)
    found = (
        f"Schedules are the published rule; of {len(s.step_weights)} steps it computes {computed}. Costs are replays "
        f"of the full run on {prompts} held-out prompts; the accelerated run's own drift is not in them."
    )
    if same:
        found += f" The {s.axes[0]} axis in other units on this trace, so not shown: {', '.join(same)}."
    if alike:
        found += f" One formula under several names on these schedules: {'; '.join(alike)}."
    return found
