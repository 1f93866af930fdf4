"""A rate read from the run itself: dynamic modes against formulas fixed before."""

from __future__ import annotations

from itertools import islice
from typing import Any

import numpy as np

from hyca_runtime.solvers import DynamicMode
from studies.paper.chapter import Claim, Part, Table, Verdict
from studies.paper.effects import Ratio
from studies.paper.formulas.dataset import Dataset, Sharing, Use
from studies.paper.formulas.fitting import tap_costs
from studies.paper.formulas.learned import learn
from studies.paper.replay_setup import Array
from studies.paper.ruling import all_below, decide, ruled, told

SOLVER = DynamicMode()
LINEAR, QUADRATIC = "newton order=1", "newton order=2"
HELD_FIRST, HELD_LATER, DAMPED, MEDIAN = "held, first gap", "held, later gaps", "growth damped", "median rate"


def modes(s: Dataset) -> Part:
    """Dynamic modes in one group and in several, and how often they fall back."""
    shared = dict(islice(s.sharings.items(), 2))
    learnt = {
        (name, axis): s.learnt_costs(SOLVER, sharing, axis) for name, sharing in shared.items() for axis in s.axes
    }
    taps = {name: tap_costs(s, sharing, SOLVER.depth, s.ridge) for name, sharing in shared.items()}
    named = {f"{label}, {axis}": s.costs[Use(label, axis)] for label in (LINEAR, QUADRATIC) for axis in s.axes}
    named |= {f"dynamic modes, {name}, {axis}": costs for (name, axis), costs in learnt.items()}
    named |= {f"fitted taps, {name}": costs for name, costs in taps.items()}
    hold = s.costs[Use("hold", s.axes[0])]
    relative = {name: s.ratios(costs, hold) for name, costs in named.items()}
    found = {
        f"{name}, {axis}": [outcomes(s, sharing, interval, axis) for interval in s.intervals]
        for name, sharing in shared.items()
        for axis in s.axes
    }
    numbers = {"cost_over_hold": relative, "outcomes": found, "intervals": list(s.intervals)}
    numbers |= _compared(s, learnt, taps)
    return Part((_table(s, relative), _outcome_table(s, found)), numbers)


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
    return {
        HELD_FIRST: held[0],
        HELD_LATER: float(np.mean(held[1:])) if held[1:] else None,
        DAMPED: float(np.mean(damped)),
        MEDIAN: float(np.median(every)) if every.size else None,
    }


def _table(s: Dataset, relative: dict[str, list[Ratio]]) -> Table:
    caption = (
        "Held-out cost over that of hold, with 95 % interval over prompts. A dynamic mode reads one rate for each "
        f"prompt, guidance branch and group from the last {SOLVER.depth} features; fitted taps have the same history "
        f"and ridge {s.ridge:g}."
    )
    return s.table(caption, ("forecast",), relative)


def _outcome_table(s: Dataset, found: dict[str, list[dict[str, float | None]]]) -> Table:
    shown = {
        (name, key): ["-" if (value := cell[key]) is None else value for cell in cells]
        for name, cells in found.items()
        for key in cells[0]
    }
    caption = (
        "How often a dynamic mode falls back: share of prompts and groups that are held, because their last two "
        "changes point apart, in the first gap and later; share of forecasts whose growth is damped; and the median "
        "rate per last gap of those that are not held (0 is linear extrapolation)."
    )
    return Table.of(caption, ("groups, axis", "outcome", *s.head), shown)


def _compared(s: Dataset, learnt: dict[tuple[str, str], Array], taps: dict[str, Array]) -> dict[str, Any]:
    """Cost ratios that the claims are about."""
    linear = {axis: s.costs[Use(LINEAR, axis)] for axis in s.axes}
    first, *others = s.axes
    own = {axis: learnt[next(iter(taps)), axis] for axis in s.axes}
    return {
        "over_linear": {", ".join(key): s.ratios(costs, linear[key[1]]) for key, costs in learnt.items()},
        "taps_over": {", ".join(key): s.ratios(taps[key[0]], costs) for key, costs in learnt.items()},
        "over_first_axis": {axis: [s.over(of[axis], of[first]) for of in (own, linear)] for axis in others},
    }


def claims(found: dict[str, Any]) -> tuple[Claim, ...]:
    """Verdicts of the numbers of `modes`."""
    at = f"N = {', '.join(map(str, found['intervals']))}"
    return (
        ruled(
            "A rate read at run time beats linear extrapolation (at every interval, in one group and several, on "
            "every axis).",
            lambda: (_all_below(found["over_linear"]), f"cost ratio at {at}: {_listed(found['over_linear'])}."),
        ),
        ruled(
            "Taps fitted beforehand beat rates read at run time (same history, same groups, at every interval).",
            lambda: (
                _all_below(found["taps_over"]),
                f"cost of taps over modes at {at}: {_listed(found['taps_over'])}.",
            ),
        ),
        ruled(
            "Reading the rate makes the axis matter less than it does to linear extrapolation (the intervals of the "
            "logarithms lie apart).",
            lambda: (
                decide([_steadier(mode, line) for mode, line in found["over_first_axis"].values()]),
                "; ".join(
                    f"cost on {axis} over the papers' axis: modes {told(mode)}, linear {told(line)}"
                    for axis, (mode, line) in found["over_first_axis"].items()
                )
                + ".",
            ),
        ),
    )


def _all_below(found: dict[str, list[Ratio]]) -> Verdict:
    return all_below((ratio for ratios in found.values() for ratio in ratios), 1)


def _steadier(mode: Ratio, line: Ratio) -> bool | None:
    """Whether one cost ratio is surely nearer to 1 than the other."""

    def distances(ratio: Ratio) -> tuple[float, float]:
        low, high = np.log(ratio[1]), np.log(ratio[2])
        return (0.0 if low <= 0 <= high else min(abs(low), abs(high))), max(abs(low), abs(high))

    (least, most), (least_line, most_line) = distances(mode), distances(line)
    return True if most < least_line else False if least >= most_line else None


def _listed(found: dict[str, list[Ratio]]) -> str:
    return "; ".join(f"{name} {', '.join(f'{r[0]:.3f}' for r in ratios)}" for name, ratios in found.items())
