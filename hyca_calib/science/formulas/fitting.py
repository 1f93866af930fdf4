"""Taps fitted by least squares, as one more solver: history, ridge, what the ridge draws to, and who shares them."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from hyca_calib.science.chapter import Claim, Table
from hyca_calib.science.formulas.ground import Ground, Ratio, Sharing, closed_rows, noise_gain, over
from hyca_calib.science.groups.arena import Rows
from hyca_calib.science.groups.subject import RIDGES, Part, row, told, verdict
from hyca_calib.search.candidate import Settings
from hyca_runtime.solvers import ClosedFormSolver, Hold, Newton

__all__ = ["fitting", "tap_costs", "tap_rows"]

Array = NDArray[np.float64]

USUAL = Settings()
HISTORIES = (1, 2, 3, 4)
STRENGTHS = (*RIDGES, 1e-1)
LINEAR = Newton(1)
PRIORS: dict[str, ClosedFormSolver] = {"hold": Hold(), "linear": LINEAR, "quadratic": Newton(2)}
LITTLE = 0.98  # a longer history is not worth it if it leaves at least this share of the cost


def fitting(s: Ground) -> Part:
    """Cost over that of the best closed form of each schedule."""
    ridges = dict.fromkeys((s.ridge, USUAL.ridge))
    histories = {(depth, ridge): tap_costs(s, s.one, depth, ridge) for ridge in ridges for depth in HISTORIES}
    sharings, usual = (
        {name: tap_costs(s, shared, USUAL.depth, ridge) for name, shared in s.sharings.items()}
        for ridge in (s.ridge, USUAL.ridge)
    )
    strengths = {
        (name, prior): [_relative(s, tap_costs(s, shared, USUAL.depth, ridge, solver)) for ridge in STRENGTHS]
        for name, shared in s.sharings.items()
        for prior, solver in PRIORS.items()
    }
    noise = [noise_gain(tap_rows(s, s.one, s.intervals[-1], USUAL.depth, ridge)) for ridge in STRENGTHS]
    best = s.best_closed(s.axes)[1]
    shown = {f"history {depth}, one group, ridge {ridge:g}": costs for (depth, ridge), costs in histories.items()}
    shown |= {f"history {USUAL.depth}, {name}, ridge {s.ridge:g}": costs for name, costs in sharings.items()}
    relative = {name: s.ratios(costs, best) for name, costs in shown.items()}
    numbers = {
        "ridge": s.ridge,
        "cost_over_best_closed": relative,
        "by_ridge": {f"{name}, drawn to {prior}": found for (name, prior), found in strengths.items()},
        "noise_by_ridge": noise,
        "ridges": list(STRENGTHS),
    }
    tables = (_table(s, relative), _ridge_table(s, strengths, noise))
    return Part((), tables, _claims(s, histories, sharings, usual), numbers)


def tap_rows(
    s: Ground, shared: Sharing, interval: int, depth: int, ridge: float, prior: ClosedFormSolver = LINEAR
) -> Rows:
    """Taps ``(group, history, target)`` of each gap, fitted on the fit prompts and drawn towards `prior`."""
    arena = s.arena(interval, depth=depth)
    return arena.fit(shared.fit, ridge, [taps[:, :depth] for taps in closed_rows(prior, arena)])


def tap_costs(s: Ground, shared: Sharing, depth: int, ridge: float, prior: ClosedFormSolver = LINEAR) -> Array:
    """Held-out cost ``(interval, prompt)`` of fitted taps."""
    return s.judge(shared, [tap_rows(s, shared, n, depth, ridge, prior) for n in s.intervals])


def _relative(s: Ground, costs: Array) -> Ratio:
    return over(costs, s.best_closed(s.axes)[1], s.seed)


def _table(s: Ground, relative: dict[str, list[Ratio]]) -> Table:
    rows = tuple((name, *map(told, ratios)) for name, ratios in relative.items())
    caption = (
        "Held-out cost of fitted taps over that of the best closed form of the schedule, with 95 % interval over "
        f"prompts. Ridge {s.ridge:g} is chosen by cross-validation over fit prompts, {USUAL.ridge:g} is the search's "
        "default; both draw towards linear extrapolation."
    )
    return Table(caption, ("taps", *(f"N = {n}" for n in s.intervals)), rows)


def _ridge_table(s: Ground, strengths: dict[tuple[str, str], list[Ratio]], noise: list[float]) -> Table:
    rows = tuple((name, prior, *map(told, found)) for (name, prior), found in strengths.items())
    caption = (
        f"The same by ridge and by what it draws to, history {USUAL.depth}, geometric mean over N; and the mean sum of "
        f"absolute weights at N = {s.intervals[-1]}."
    )
    last = row("one group, sum of absolute weights", "linear", *noise)
    return Table(caption, ("taps", "drawn to", *(f"{ridge:g}" for ridge in STRENGTHS)), (*rows, last))


def _claims(
    s: Ground, histories: dict[tuple[int, float], Array], sharings: dict[str, Array], usual: dict[str, Array]
) -> tuple[Claim, ...]:
    gained = s.ratios(next(iter(sharings.values())), s.best_closed(s.axes)[1])
    finer = {name: over(sharings[name], sharings[before], s.seed) for before, name in pairwise(sharings)}
    longer = {r: over(histories[HISTORIES[-1], r], histories[USUAL.depth, r], s.seed) for _, r in histories}
    shorter = {r: over(histories[USUAL.depth, r], histories[USUAL.depth - 1, r], s.seed) for _, r in histories}
    dearer = {name: over(usual[name], costs, s.seed) for name, costs in sharings.items()}
    return (
        Claim(
            "Fitted taps beat the best closed form of every schedule, even one row for all channels.",
            verdict([ratio[2] < 1 for ratio in gained]),
            f"history {USUAL.depth}, ridge {s.ridge:g}, cost ratio at N = {', '.join(map(str, s.intervals))}: "
            + ", ".join(map(told, gained))
            + ".",
        ),
        Claim(
            f"A history of {USUAL.depth} is enough (one more saves under {100 * (1 - LITTLE):.0f} %, at either ridge).",
            verdict([ratio[0] > LITTLE for ratio in longer.values()]),
            "; ".join(
                f"ridge {r:g}: {HISTORIES[-1]} over {USUAL.depth} {told(longer[r])}, "
                f"{USUAL.depth} over {USUAL.depth - 1} {told(shorter[r])}"
                for r in longer
            )
            + ".",
        ),
        Claim(
            f"Finer sharing forecasts better ({', then '.join(sharings)}; mean over intervals).",
            verdict([ratio[2] < 1 for ratio in finer.values()]),
            ", ".join(f"{name} {told(ratio)} of the one before" for name, ratio in finer.items()) + ".",
        ),
        Claim(
            f"The search's default ridge, {USUAL.ridge:g}, costs no more than the cross-validated {s.ridge:g} "
            "(interval and all, mean over intervals).",
            verdict([ratio[1] <= 1 for ratio in dearer.values()]),
            ", ".join(f"{name} {told(ratio)}" for name, ratio in dearer.items()) + " in replay.",
        ),
    )
