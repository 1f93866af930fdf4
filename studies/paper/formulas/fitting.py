"""Weights that are learnt: by least squares beforehand, as one more solver, or as one rate from the run itself."""

from itertools import islice, pairwise, product

import numpy as np

from hyca_calib.search.replay import Array
from hyca_calib.search.settings import Settings
from hyca_runtime.solvers import ClosedFormSolver, DynamicMode, Hold, Newton
from studies.paper.chapter import Cell, Numbers, Part, Rulings
from studies.paper.formulas.dataset import Dataset, Sharing, Use, learn, noise_gain
from studies.paper.intervals import Ratio, all_above, all_below, decide, told
from studies.paper.replay import RIDGES, Rows
from studies.paper.words import claims, table

USUAL = Settings()
HISTORIES = (1, 2, 3, 4)
STRENGTHS = (*RIDGES, 1e-1)
LINEAR = Newton(1)
PRIORS: dict[str, ClosedFormSolver] = {"hold": Hold(), "linear": LINEAR, "quadratic": Newton(2)}
LITTLE = 0.98  # a longer history is not worth it if it leaves at least this share of the cost
FREE = 1.02  # what costs at most this much more is as good


def fitting(s: Dataset) -> Part:
    """Cost over that of the best closed form of each schedule."""
    best = s.best_closed(s.axes)[1]
    ridges = dict.fromkeys((s.ridge, USUAL.ridge))
    histories = {(depth, ridge): tap_costs(s, s.one, depth, ridge) for ridge in ridges for depth in HISTORIES}
    sharings, usual = (
        {name: tap_costs(s, shared, USUAL.depth, ridge) for name, shared in s.sharings.items()}
        for ridge in (s.ridge, USUAL.ridge)
    )
    strengths = {
        (name, prior): [s.over(tap_costs(s, s.sharings[name], USUAL.depth, x, PRIORS[prior]), best) for x in STRENGTHS]
        for name, prior in product(s.sharings, PRIORS)
    }
    noise = [noise_gain(tap_rows(s, s.one, s.intervals[-1], USUAL.depth, ridge)) for ridge in STRENGTHS]
    shown = {f"history {depth}, one group, ridge {ridge:g}": costs for (depth, ridge), costs in histories.items()}
    shown |= {f"history {USUAL.depth}, {name}, ridge {s.ridge:g}": costs for name, costs in sharings.items()}
    relative = {name: s.ratios(costs, best) for name, costs in shown.items()}

    def history(more: int) -> Numbers:
        return {f"{ridge:g}": s.over(histories[more, ridge], histories[more - 1, ridge]) for ridge in ridges}

    numbers = {
        "ridge": s.ridge,
        "cost_over_best_closed": relative,
        "by_ridge": {f"{name}, drawn to {prior}": found for (name, prior), found in strengths.items()},
        "noise_by_ridge": noise,
        "ridges": list(STRENGTHS),
        "over_best_closed": s.ratios(next(iter(sharings.values())), best),
        "finer": {name: s.over(sharings[name], sharings[before]) for before, name in pairwise(sharings)},
        "usual_ridge": {name: s.over(usual[name], costs) for name, costs in sharings.items()},
        "longer": history(HISTORIES[-1]),
        "shorter": history(USUAL.depth),
    }
    cells: dict[tuple[str, str], list[Cell]] = {key: [*map(told, of)] for key, of in strengths.items()}
    cells["one group, sum of absolute weights", "linear"] = [*noise]
    facts = {"depth": USUAL.depth, "longest": s.intervals[-1], "columns": [f"{ridge:g}" for ridge in STRENGTHS]}
    costs = s.table("taps", relative, ridge=s.ridge, usual=USUAL.ridge)
    return Part(numbers, (costs, table("solvers", "ridges", cells, **facts)))


def tap_rows(
    s: Dataset, shared: Sharing, interval: int, depth: int, ridge: float, prior: ClosedFormSolver = LINEAR
) -> Rows:
    """Taps ``(group, history, target)`` of each gap, fitted on the fit prompts and drawn towards `prior`."""
    setup = s.setup(interval, depth=depth)
    return setup.fit(shared.fit, ridge, setup.rows(prior))


def tap_costs(s: Dataset, shared: Sharing, depth: int, ridge: float, prior: ClosedFormSolver = LINEAR) -> Array:
    """Held-out cost ``(interval, prompt)`` of fitted taps."""
    return s.judge(shared, [tap_rows(s, shared, n, depth, ridge, prior) for n in s.intervals])


def rulings(found: Numbers) -> Rulings:
    """By the numbers of `fitting`."""
    verdicts = {
        "fitted": all_below(found["over_best_closed"], 1),
        "history": all_above(found["longer"].values(), LITTLE),
        "finer": all_below(found["finer"].values(), 1),
        "usual": all_below(found["usual_ridge"].values(), FREE),
    }
    return claims("solvers", verdicts, **found, depth=USUAL.depth, usual=USUAL.ridge)


SOLVER = DynamicMode()
FIRST, SECOND = "newton order=1", "newton order=2"
HELD_FIRST, HELD_LATER, DAMPED, MEDIAN = "held, first gap", "held, later gaps", "growth damped", "median rate"


def modes(s: Dataset) -> Part:
    """Dynamic modes in one group and in several, and how often they fall back."""
    shared = dict(islice(s.sharings.items(), 2))
    ways = {f"{name}, {axis}": (name, axis) for name, axis in product(shared, s.axes)}
    learnt = {way: s.learnt_costs(SOLVER, shared[name], axis) for way, (name, axis) in ways.items()}
    taps = {name: tap_costs(s, sharing, SOLVER.depth, s.ridge) for name, sharing in shared.items()}
    linear = {axis: s.costs[Use(FIRST, axis)] for axis in s.axes}
    named = {f"{label}, {axis}": s.costs[Use(label, axis)] for label in (FIRST, SECOND) for axis in s.axes}
    named |= {f"dynamic modes, {way}": costs for way, costs in learnt.items()}
    named |= {f"fitted taps, {name}": costs for name, costs in taps.items()}
    relative = {name: s.ratios(costs, s.costs[Use("hold", s.axes[0])]) for name, costs in named.items()}
    found = {way: [outcomes(s, shared[name], n, axis) for n in s.intervals] for way, (name, axis) in ways.items()}
    own = {axis: learnt[f"{next(iter(shared))}, {axis}"] for axis in s.axes}
    first, *others = s.axes
    numbers = {
        "cost_over_hold": relative,
        "outcomes": found,
        "intervals": list(s.intervals),
        "over_linear": {way: s.ratios(learnt[way], linear[axis]) for way, (_, axis) in ways.items()},
        "taps_over": {way: s.ratios(taps[name], learnt[way]) for way, (name, _) in ways.items()},
        "over_first_axis": {axis: [s.over(of[axis], of[first]) for of in (own, linear)] for axis in others},
    }
    fallbacks = {
        (way, key): ["-" if (value := cell[key]) is None else value for cell in cells]
        for way, cells in found.items()
        for key in (HELD_FIRST, HELD_LATER, DAMPED, MEDIAN)
    }
    costs = s.table("modes", relative, depth=SOLVER.depth, ridge=s.ridge)
    return Part(numbers, (costs, table("solvers", "fallbacks", fallbacks, columns=s.head)))


def outcomes(s: Dataset, shared: Sharing, interval: int, axis: str) -> dict[str, float | None]:
    """Shares of prompts and groups that are held, and of forecasts whose growth is damped; the rate of those not held.

    A rate is per last gap, 0 is linear extrapolation; None where there is nothing to count.
    """
    setup = s.setup(interval, axis)
    rates = [rate.numpy() for rate in learn(SOLVER, setup, shared.plain)]
    held = [float(np.isinf(rate).mean()) for rate in rates]
    damped: list[float] = []
    for (history, targets), rate in zip(setup.gaps, rates, strict=True):
        newest, older = setup.times[list(history[:2])]
        ahead = (setup.times[list(targets)] - newest) / (newest - older)
        damped.extend(float((rate > SOLVER.limit / max(1.0, far)).mean()) for far in ahead)
    every = np.concatenate([rate[np.isfinite(rate)] for rate in rates])
    later, median = float(np.mean(held[1:])) if held[1:] else None, float(np.median(every)) if every.size else None
    return {HELD_FIRST: held[0], HELD_LATER: later, DAMPED: float(np.mean(damped)), MEDIAN: median}


def modes_rulings(found: Numbers) -> Rulings:
    """By the numbers of `modes`."""
    verdicts = {
        "read": all_below((ratio for of in found["over_linear"].values() for ratio in of), 1),
        "beforehand": all_below((ratio for of in found["taps_over"].values() for ratio in of), 1),
        "steadier": decide([_steadier(mode, line) for mode, line in found["over_first_axis"].values()]),
    }
    return claims("solvers", verdicts, **found)


def _steadier(mode: Ratio, line: Ratio) -> bool | None:
    """Whether one cost ratio is surely nearer to 1 than the other."""

    def distances(ratio: Ratio) -> tuple[float, float]:
        low, high = np.log(ratio[1]), np.log(ratio[2])
        return (0.0 if low <= 0 <= high else min(abs(low), abs(high))), max(abs(low), abs(high))

    (least, most), (least_line, most_line) = distances(mode), distances(line)
    return True if most < least_line else False if least >= most_line else None
