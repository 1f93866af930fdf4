"""Every solver of the pool at the published schedules: which is best, and on which axis?"""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np

from hyca_calib.search.solver_table import ALL_SOLVERS, SolverFacts, facts_of
from hyca_runtime.solvers import ClosedFormSolver, FoCa, Hermite, Newton, Taylor
from studies.paper.chapter import Numbers, Part, Rulings, Table
from studies.paper.formulas.dataset import Dataset, Use
from studies.paper.intervals import Ratio, above, all_below, all_of, below, decide, logarithm, told
from studies.paper.words import claims, paragraphs, table

NEWTON = ("hold", *(f"newton order={order}" for order in range(1, 5)))

PUBLISHED: dict[str, tuple[Callable[[int], ClosedFormSolver], ClosedFormSolver]] = {
    "HiCache of order 1": (lambda n: Hermite(1), Newton(1)),
    "HiCache of order 2": (lambda n: Hermite(2, gap_steps=n), Taylor(2)),
    "FoCa": (lambda n: FoCa(), Newton(1)),
}
"""As published, by interval, and TaylorSeer of the same order."""


def pool(s: Dataset) -> Part:
    """Facts and held-out costs of every solver; its best axis; the best order."""
    facts, first = [facts_of(solver) for solver in ALL_SOLVERS], s.axes[0]
    hold = s.costs[Use("hold", first)]
    relative = {axis: {f.label: s.ratios(s.costs[Use(f.label, axis)], hold) for f in facts} for axis in s.axes}
    moved = {
        axis: {f.label: s.over(s.costs[Use(f.label, axis)], s.costs[Use(f.label, first)]) for f in facts if f.depth > 1}
        for axis in s.axes[1:]
    }
    bests = {" or ".join(axes): s.best_closed(axes) for axes in dict.fromkeys((s.axes[:1], s.axes))}
    best = {name: list(zip(chosen, s.ratios(costs, hold), strict=True)) for name, (chosen, costs) in bests.items()}
    numbers = {
        "facts": [asdict(f) for f in facts],
        "intervals": list(s.intervals),
        "computed": [len(s.schedule(interval).computed_steps) for interval in s.intervals],
        "cost_over_hold": relative,
        "cost_over_step_axis": moved,
        "order_turn": {axis: _turn(s, axis) for axis in s.axes},
        "published_over_taylor": {name: _published(s, *solvers) for name, solvers in PUBLISHED.items()},
        "best_closed": {name: [[*use, *ratio] for use, ratio in of] for name, of in best.items()},
    }
    chosen = {(n, name): (*of[i][0], told(of[i][1])) for i, n in enumerate(s.head) for name, of in best.items()}
    return Part(numbers, (_table(s, facts, relative, moved), table("solvers", "chosen", chosen)), _text(s))


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


def _table(
    s: Dataset,
    facts: list[SolverFacts],
    relative: dict[str, dict[str, list[Ratio]]],
    moved: dict[str, dict[str, Ratio]],
) -> Table:
    cells = {}
    for f in facts:
        noise = " / ".join(f"{value:.1f}" for value in f.noise or ()) or "-"
        cold = ", ".join(f"{order:.1f}" for order in f.cold) or "-"
        costs = [" / ".join(f"{of[f.label][i][0]:.3f}" for of in relative.values()) for i in range(len(s.intervals))]
        shifts = [told(of[f.label]) if f.label in of else "-" for of in moved.values()]
        cells[f.label] = (str(f.depth), f"{f.order:.1f}", noise, cold, *costs, *shifts)
    columns = (*s.head, *(f"{axis} over {s.axes[0]}" for axis in moved))
    return table("solvers", "facts", cells, axes=s.axes, columns=columns)


def _turn(s: Dataset, axis: str) -> dict[str, Any]:
    """Orders chosen on the fit prompts, and what exchanging them at either end costs on the held-out ones."""
    orders = best_orders(s, axis)
    few, many = (s.costs[Use(NEWTON[order], axis)] for order in (orders[-1], orders[0]))
    return {"orders": orders, "exchanged": [s.over(few[0], many[0]), s.over(many[-1], few[-1])]}


def _published(s: Dataset, mine: Callable[[int], ClosedFormSolver], theirs: ClosedFormSolver) -> list[Ratio]:
    own = [setup.rows(mine(n)) for n, setup in zip(s.intervals, s.setups(), strict=True)]
    return s.ratios(s.judge(s.one, own), s.judge(s.one, [setup.rows(theirs) for setup in s.setups()]))


def rulings(found: Numbers) -> Rulings:
    """By the numbers of `pool`."""
    moved, turns = found["cost_over_step_axis"], found["order_turn"].values()
    labels = dict.fromkeys(label for cells in moved.values() for label in cells)
    axis = [all_of([above(of[label], 1) for of in moved.values() if label in of]) for label in labels]
    order = [
        all_of([above(ratio, 1) for ratio in turn["exchanged"]]) if turn["orders"][-1] < turn["orders"][0] else False
        for turn in turns
    ]
    published = all_below((ratio for of in found["published_over_taylor"].values() for ratio in of), 1)
    verdicts = {"axis": decide(axis), "order": decide(order), "published": published}
    shifts = {axis: _shift(cells) for axis, cells in moved.items()}
    first = next(axis for axis in found["cost_over_hold"] if axis not in moved)
    return claims("solvers", verdicts, **found, first=first, shifts=shifts)


def _shift(cells: dict[str, Ratio]) -> dict[str, Any]:
    """Solvers that another axis serves better, and worse, and the ends of the range."""
    return {
        "of": len(cells),
        "better": [label for label, found in cells.items() if below(found, 1)],
        "worse": [label for label, found in cells.items() if above(found, 1)],
        "lowest": min(cells.items(), key=lambda item: item[1]),
        "highest": max(cells.values()),
    }


def _text(s: Dataset) -> tuple[str, ...]:
    facts = {
        "steps": len(s.step_weights),
        "computed": {n: len(s.schedule(n).computed_steps) for n in s.intervals},
        "held_out": len(s.one.judged),
        "first": s.axes[0],
        "same": [axis for axis in s.times if axis not in s.axes],
        "alike": [" = ".join(names) for names in twins(s) if len(names) > 1],
    }
    return paragraphs("solvers", "schedules", **facts)
