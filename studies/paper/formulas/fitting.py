"""Taps fitted by least squares, as one more solver: history, ridge, what the ridge draws to, and who shares them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from hyca_calib.search.candidate import Settings
from hyca_runtime.solvers import ClosedFormSolver, Hold, Newton
from studies.paper.chapter import Claim, Part, Table
from studies.paper.effects import Ratio
from studies.paper.formulas.dataset import Dataset, Sharing, closed_rows, noise_gain
from studies.paper.groups.subject import RIDGES
from studies.paper.replay_setup import Array, Rows
from studies.paper.ruling import all_above, all_below, listed, ruled, told

USUAL = Settings()
HISTORIES = (1, 2, 3, 4)
STRENGTHS = (*RIDGES, 1e-1)
LINEAR = Newton(1)
PRIORS: dict[str, ClosedFormSolver] = {"hold": Hold(), "linear": LINEAR, "quadratic": Newton(2)}
LITTLE = 0.98  # a longer history is not worth it if it leaves at least this share of the cost
FREE = 1.02  # what costs at most this much more is as good


def fitting(s: Dataset) -> Part:
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
        **_compared(s, histories, sharings, usual),
    }
    tables = (_table(s, relative), _ridge_table(s, strengths, noise))
    return Part(tables, numbers)


def tap_rows(
    s: Dataset, shared: Sharing, interval: int, depth: int, ridge: float, prior: ClosedFormSolver = LINEAR
) -> Rows:
    """Taps ``(group, history, target)`` of each gap, fitted on the fit prompts and drawn towards `prior`."""
    setup = s.setup(interval, depth=depth)
    return setup.fit(shared.fit, ridge, [taps[:, :depth] for taps in closed_rows(prior, setup)])


def tap_costs(s: Dataset, shared: Sharing, depth: int, ridge: float, prior: ClosedFormSolver = LINEAR) -> Array:
    """Held-out cost ``(interval, prompt)`` of fitted taps."""
    return s.judge(shared, [tap_rows(s, shared, n, depth, ridge, prior) for n in s.intervals])


def _relative(s: Dataset, costs: Array) -> Ratio:
    return s.over(costs, s.best_closed(s.axes)[1])


def _table(s: Dataset, relative: dict[str, list[Ratio]]) -> Table:
    caption = (
        "Held-out cost of fitted taps over that of the best closed form of the schedule, with 95 % interval over "
        f"prompts. Ridge {s.ridge:g} is chosen by cross-validation over fit prompts, {USUAL.ridge:g} is the search's "
        "default; both draw towards linear extrapolation."
    )
    return s.table(caption, ("taps",), relative)


def _ridge_table(s: Dataset, strengths: dict[tuple[str, str], list[Ratio]], noise: list[float]) -> Table:
    caption = (
        f"The same by ridge and by what it draws to, history {USUAL.depth}, geometric mean over N; and the mean sum of "
        f"absolute weights at N = {s.intervals[-1]}."
    )
    cells: dict[tuple[str, str], Sequence[str | float]] = {key: [*map(told, of)] for key, of in strengths.items()}
    cells["one group, sum of absolute weights", "linear"] = noise
    return Table.of(caption, ("taps", "drawn to", *(f"{ridge:g}" for ridge in STRENGTHS)), cells)


def _compared(
    s: Dataset, histories: dict[tuple[int, float], Array], sharings: dict[str, Array], usual: dict[str, Array]
) -> dict[str, Any]:
    """Cost ratios that the claims are about."""
    ridges = dict.fromkeys(ridge for _, ridge in histories)
    lengths = {"longer": (HISTORIES[-1], USUAL.depth), "shorter": (USUAL.depth, USUAL.depth - 1)}
    return {
        "over_best_closed": s.ratios(next(iter(sharings.values())), s.best_closed(s.axes)[1]),
        "finer": {name: s.over(sharings[name], sharings[before]) for before, name in pairwise(sharings)},
        "usual_ridge": {name: s.over(usual[name], costs) for name, costs in sharings.items()},
    } | {
        name: {f"{ridge:g}": s.over(histories[more, ridge], histories[less, ridge]) for ridge in ridges}
        for name, (more, less) in lengths.items()
    }


def claims(found: dict[str, Any]) -> tuple[Claim, ...]:
    """Verdicts of the numbers of `fitting`."""
    ridge, last = found["ridge"], HISTORIES[-1]
    return (
        ruled(
            "Fitted taps beat the best closed form of every schedule, even one row for all channels.",
            lambda: (
                all_below(found["over_best_closed"], 1),
                f"history {USUAL.depth}, ridge {ridge:g}, cost ratio, shortest interval first: "
                + ", ".join(map(told, found["over_best_closed"]))
                + ".",
            ),
        ),
        ruled(
            f"A history of {USUAL.depth} is enough (one more saves under {100 * (1 - LITTLE):.0f} %, at either ridge).",
            lambda: (
                all_above(found["longer"].values(), LITTLE),
                "; ".join(
                    f"ridge {r}: {last} over {USUAL.depth} {told(ratio)}, "
                    f"{USUAL.depth} over {USUAL.depth - 1} {told(found['shorter'][r])}"
                    for r, ratio in found["longer"].items()
                )
                + ".",
            ),
        ),
        ruled(
            "Finer sharing forecasts better (one group, then a few, then per channel; mean over intervals).",
            lambda: (all_below(found["finer"].values(), 1), f"{listed(found['finer'], '{} {} of the one before')}."),
        ),
        ruled(
            f"The search's default ridge, {USUAL.ridge:g}, costs at most {100 * (FREE - 1):.0f} % more than the "
            f"cross-validated {ridge:g} (mean over intervals).",
            lambda: (all_below(found["usual_ridge"].values(), FREE), f"{listed(found['usual_ridge'])} in replay."),
        ),
    )
