"""A rate read from the run itself: dynamic modes against formulas fixed before."""

from __future__ import annotations

from itertools import islice

import numpy as np
from numpy.typing import NDArray

from hyca_calib.science.chapter import Claim, Table
from hyca_calib.science.formulas.fitting import tap_costs
from hyca_calib.science.formulas.ground import Ground, Ratio, Sharing, Use, over
from hyca_calib.science.formulas.learned import learn
from hyca_calib.science.groups.subject import Part, row, told, verdict
from hyca_runtime.solvers import DynamicMode

__all__ = ["modes", "outcomes"]

Array = NDArray[np.float64]

SOLVER = DynamicMode()
LINEAR, QUADRATIC = "newton order=1", "newton order=2"
HELD_FIRST, HELD_LATER, DAMPED, MEDIAN = "held, first gap", "held, later gaps", "growth damped", "median rate"


def modes(s: Ground) -> Part:
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
    return Part((), (_table(s, relative), _outcome_table(s, found)), _claims(s, learnt, taps), numbers)


def outcomes(s: Ground, shared: Sharing, interval: int, axis: str) -> dict[str, float | None]:
    """Shares of prompts and groups that are held, and of forecasts whose growth is damped; the rate of those not held.

    A rate is per last gap, 0 is linear extrapolation; None where there is nothing to count.
    """
    arena = s.arena(interval, axis)
    rates = [rate.numpy() for rate in learn(SOLVER, arena, shared.plain)]
    held = [float(np.isinf(rate).mean()) for rate in rates]
    damped: list[float] = []
    for (history, targets), rate in zip(arena.gaps, rates, strict=True):
        newest, older = arena.times[list(history[:2])]
        ahead = (arena.times[list(targets)] - newest) / (newest - older)
        damped.extend(float((rate > SOLVER.limit / max(1.0, far)).mean()) for far in ahead)
    every = np.concatenate([rate[np.isfinite(rate)] for rate in rates])
    return {
        HELD_FIRST: held[0],
        HELD_LATER: float(np.mean(held[1:])) if held[1:] else None,
        DAMPED: float(np.mean(damped)),
        MEDIAN: float(np.median(every)) if every.size else None,
    }


def _table(s: Ground, relative: dict[str, list[Ratio]]) -> Table:
    rows = tuple((name, *map(told, ratios)) for name, ratios in relative.items())
    caption = (
        "Held-out cost over that of hold, with 95 % interval over prompts. A dynamic mode reads one rate for each "
        f"prompt, guidance branch and group from the last {SOLVER.depth} features; fitted taps have the same history "
        f"and ridge {s.ridge:g}."
    )
    return Table(caption, ("forecast", *(f"N = {n}" for n in s.intervals)), rows)


def _outcome_table(s: Ground, found: dict[str, list[dict[str, float | None]]]) -> Table:
    rows = tuple(
        row(name, key, *("-" if (value := cell[key]) is None else value for cell in cells))
        for name, cells in found.items()
        for key in cells[0]
    )
    caption = (
        "How often a dynamic mode falls back: share of prompts and groups that are held, because their last two "
        "changes point apart, in the first gap and later; share of forecasts whose growth is damped; and the median "
        "rate per last gap of those that are not held (0 is linear extrapolation)."
    )
    return Table(caption, ("groups, axis", "outcome", *(f"N = {n}" for n in s.intervals)), rows)


def _claims(s: Ground, learnt: dict[tuple[str, str], Array], taps: dict[str, Array]) -> tuple[Claim, ...]:
    linear = {axis: s.costs[Use(LINEAR, axis)] for axis in s.axes}
    gained = {key: s.ratios(costs, linear[key[1]]) for key, costs in learnt.items()}
    lost = {key: s.ratios(taps[key[0]], costs) for key, costs in learnt.items()}
    first, *others = s.axes

    def moved(costs: dict[str, Array], axis: str) -> Ratio:
        return over(costs[axis], costs[first], s.seed)

    one = next(iter(taps))
    own = {axis: learnt[one, axis] for axis in s.axes}
    steady = {axis: (moved(own, axis), moved(linear, axis)) for axis in others}
    return (
        Claim(
            "A rate read at run time beats linear extrapolation (at every interval, in one group and several, on "
            "every axis).",
            verdict([ratio[2] < 1 for ratios in gained.values() for ratio in ratios]),
            f"cost ratio at N = {', '.join(map(str, s.intervals))}: " + _listed(gained) + ".",
        ),
        Claim(
            "Taps fitted beforehand beat rates read at run time (same history, same groups, at every interval).",
            verdict([ratio[2] < 1 for ratios in lost.values() for ratio in ratios]),
            f"cost of taps over modes at N = {', '.join(map(str, s.intervals))}: " + _listed(lost) + ".",
        ),
        Claim(
            "Reading the rate makes the axis matter less than it does to linear extrapolation.",
            verdict([abs(np.log(mode[0])) < abs(np.log(line[0])) for mode, line in steady.values()]),
            "; ".join(
                f"cost on {axis} over {first}: modes {told(mode)}, linear {told(line)}"
                for axis, (mode, line) in steady.items()
            )
            + ".",
        ),
    )


def _listed(found: dict[tuple[str, str], list[Ratio]]) -> str:
    return "; ".join(f"{', '.join(key)} {', '.join(f'{r[0]:.3f}' for r in ratios)}" for key, ratios in found.items())
