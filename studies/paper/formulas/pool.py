"""Every solver of the pool at the published schedules: which is best, and on which axis?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np

from hyca_calib.search.solver_table import ALL_SOLVERS, SolverFacts, facts_of
from hyca_runtime.solvers import ClosedFormSolver, FoCa, Hermite, Newton, Taylor
from studies.paper.chapter import Claim, Part, Table, Verdict
from studies.paper.effects import Ratio, logarithm
from studies.paper.formulas.dataset import Dataset, Use, closed_rows
from studies.paper.ruling import above, all_below, all_of, below, decide, ruled, told

NEWTON = ("hold", *(f"newton order={order}" for order in range(1, 5)))

RIVALS: dict[str, tuple[Callable[[int], ClosedFormSolver], ClosedFormSolver]] = {
    "HiCache of order 1": (lambda n: Hermite(1), Newton(1)),
    "HiCache of order 2": (lambda n: Hermite(2, gap_steps=n), Taylor(2)),
    "FoCa": (lambda n: FoCa(), Newton(1)),
}
"""As published, by interval, and TaylorSeer of the same order."""


def pool(s: Dataset) -> Part:
    """Facts and held-out costs of every solver; its best axis; the best order."""
    facts = [facts_of(solver) for solver in ALL_SOLVERS]
    hold = s.costs[Use("hold", s.axes[0])]
    relative = {axis: {f.label: s.ratios(s.costs[Use(f.label, axis)], hold) for f in facts} for axis in s.axes}
    moved = {axis: {f.label: _moved(s, f.label, axis) for f in facts if f.depth > 1} for axis in s.axes[1:]}
    bests = {" or ".join(axes): s.best_closed(axes) for axes in dict.fromkeys((s.axes[:1], s.axes))}
    best = {name: list(zip(chosen, s.ratios(costs, hold), strict=True)) for name, (chosen, costs) in bests.items()}
    numbers = {
        "facts": [asdict(f) for f in facts],
        "intervals": list(s.intervals),
        "computed": [len(s.schedule(interval).computed_steps) for interval in s.intervals],
        "cost_over_hold": relative,
        "cost_over_step_axis": moved,
        "order_turn": _turns(s),
        "published_over_taylor": _published(s),
        "best_closed": {name: [[*use, *found] for use, found in cells] for name, cells in best.items()},
    }
    tables = (_table(s, facts, relative, moved), _best_table(s, best))
    return Part(tables, numbers, (_text(s),))


def best_orders(s: Dataset, axis: str) -> list[int]:
    """The order of Newton's extrapolation, 0 for hold, that costs least on the fit prompts at each interval."""
    totals = np.stack([s.fit_costs[Use(label, axis)] for label in NEWTON])
    return [int(order) for order in totals.argmin(0)]


def twins(s: Dataset) -> list[list[str]]:
    """Anchored closed forms by what they cost on all axes; those that cost the same are one formula here."""
    alike: dict[tuple[float, ...], list[str]] = {}
    for label in dict.fromkeys(use.solver for use in s.costs):
        costs = np.stack([s.costs[Use(label, axis)].sum(1) for axis in s.axes])
        alike.setdefault(tuple(np.round(logarithm(costs), 6).ravel()), []).append(label)
    return list(alike.values())


def _moved(s: Dataset, label: str, axis: str) -> Ratio:
    """Cost on an axis over that on the papers', mean over intervals."""
    return s.over(s.costs[Use(label, axis)], s.costs[Use(label, s.axes[0])])


def _table(
    s: Dataset,
    facts: list[SolverFacts],
    relative: dict[str, dict[str, list[Ratio]]],
    moved: dict[str, dict[str, Ratio]],
) -> Table:
    rows = []
    for f in facts:
        noise = " / ".join(f"{value:.1f}" for value in f.noise) if f.noise else "-"
        cold = ", ".join(f"{order:.1f}" for order in f.cold) or "-"
        costs = [" / ".join(f"{relative[axis][f.label][i][0]:.3f}" for axis in s.axes) for i in range(len(s.intervals))]
        shifts = [told(moved[axis][f.label]) if f.label in moved[axis] else "-" for axis in moved]
        rows.append((f.label, str(f.depth), f"{f.order:.1f}", noise, cold, *costs, *shifts))
    head = ("solver", "features", "order", "noise at 1 / 4", "cold", *s.head)
    caption = (
        "Measured facts (order of the error in the gap; sum of absolute weights 1 and 4 gaps ahead; order with one, "
        "two ... features) and held-out replay cost over that of hold, one row of weights for all channels, three "
        f"first steps and then every N-th; on the axes {' / '.join(s.axes)}. Last: cost on another axis over that on "
        f"the {s.axes[0]} axis, geometric mean over N, with 95 % interval over prompts."
    )
    return Table(caption, head + tuple(f"{axis} over {s.axes[0]}" for axis in moved), tuple(rows))


def _best_table(s: Dataset, best: dict[str, list[tuple[Use, Ratio]]]) -> Table:
    rows = tuple(
        (f"N = {n}", name, use.solver, use.axis, use.multistep, told(cost))
        for i, n in enumerate(s.intervals)
        for name, (use, cost) in ((name, cells[i]) for name, cells in best.items())
    )
    caption = "The closed form, axis and use that cost least on the fit prompts, and their held-out cost over hold."
    return Table(caption, ("schedule", "axes allowed", "closed form", "axis", "use", "cost over hold"), rows)


def claims(found: dict[str, Any]) -> tuple[Claim, ...]:
    """Verdicts of the numbers of `pool`."""
    moved, intervals = found["cost_over_step_axis"], found["intervals"]
    first = next(axis for axis in found["cost_over_hold"] if axis not in moved)
    return (
        ruled(
            f"The papers' {first} axis serves every solver best (every other axis costs more, interval above 1, mean "
            "over intervals).",
            lambda: _axis(moved),
        ),
        ruled(
            "The order that pays falls as the interval grows, on every axis (of Newton's orders, the one chosen at "
            "the longest interval on the fit prompts is lower than at the shortest, and each costs less than the other "
            "where it was chosen, on held-out prompts).",
            lambda: _falls(found["order_turn"], intervals),
        ),
        ruled(
            f"HiCache and FoCa forecast better than TaylorSeer of the same order (at every interval, {first} axis).",
            lambda: (
                all_below((ratio for ratios in found["published_over_taylor"].values() for ratio in ratios), 1),
                "; ".join(
                    f"{name} {', '.join(f'{ratio[0]:.2f}' for ratio in ratios)}"
                    for name, ratios in found["published_over_taylor"].items()
                )
                + f" of its cost at N = {', '.join(map(str, intervals))}.",
            ),
        ),
    )


def _axis(moved: dict[str, dict[str, Ratio]]) -> tuple[Verdict, str]:
    labels = list(dict.fromkeys(label for cells in moved.values() for label in cells))
    better = {axis: [label for label, found in cells.items() if below(found, 1)] for axis, cells in moved.items()}
    worse = {axis: [label for label, found in cells.items() if above(found, 1)] for axis, cells in moved.items()}
    evidence = [
        f"{axis} is better for {len(better[axis])} of {len(cells)} solvers, down to {told(min(cells.values()))} for "
        f"{min(cells, key=lambda label: cells[label])}, and worse for {len(worse[axis])}"
        + (f" ({', '.join(worse[axis])}), up to {told(max(cells.values()))}" if worse[axis] else "")
        for axis, cells in moved.items()
    ]

    met = [all_of([above(found[label], 1) for found in moved.values() if label in found]) for label in labels]
    return decide(met), "; ".join(evidence) + "."


def _turns(s: Dataset) -> dict[str, dict[str, Any]]:
    """Orders chosen on the fit prompts, and what exchanging them at either end costs on the held-out ones."""
    found: dict[str, dict[str, Any]] = {}
    for axis in s.axes:
        orders = best_orders(s, axis)
        few, many = (s.costs[Use(NEWTON[order], axis)] for order in (orders[-1], orders[0]))
        found[axis] = {"orders": orders, "exchanged": [s.over(few[0], many[0]), s.over(many[-1], few[-1])]}
    return found


def _falls(turns: dict[str, dict[str, Any]], intervals: list[int]) -> tuple[Verdict, str]:
    def met(orders: list[int], exchanged: list[Ratio]) -> bool | None:
        if orders[-1] >= orders[0]:
            return False
        return all_of([above(ratio, 1) for ratio in exchanged])

    told_of = "; ".join(
        f"{axis} {', '.join(map(str, turn['orders']))}, exchanged between the ends they cost "
        f"{told(turn['exchanged'][0])} and {told(turn['exchanged'][1])}"
        for axis, turn in turns.items()
    )
    chosen = f"order of Newton's extrapolation chosen at N = {', '.join(map(str, intervals))}"
    return decide([met(**turn) for turn in turns.values()]), f"{chosen}: {told_of}."


def _published(s: Dataset) -> dict[str, list[Ratio]]:
    setups = [s.setup(n) for n in s.intervals]
    return {
        name: s.ratios(
            s.judge(s.one, [closed_rows(mine(n), a) for n, a in zip(s.intervals, setups, strict=True)]),
            s.judge(s.one, [closed_rows(theirs, a) for a in setups]),
        )
        for name, (mine, theirs) in RIVALS.items()
    }


def _text(s: Dataset) -> str:
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
