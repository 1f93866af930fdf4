"""Do feature dimensions move differently, and do they want different solvers?"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hyca_calib.features import descriptors
from hyca_calib.search.replay import Array, forecast_error, rows_of
from hyca_calib.search.solver_table import POOL, solver_label
from hyca_runtime.solvers import ClosedFormSolver
from studies.paper.chapter import Numbers, Part, Rulings, Table
from studies.paper.groups.subject import Subject, best_closed
from studies.paper.intervals import Ratio, above, all_below, below, bootstrapped, decide, told
from studies.paper.replay import ReplaySetup, members
from studies.paper.words import claims, paragraphs, table

READINGS: dict[str, Callable[[Array], Array]] = {
    "energy, decades": lambda gram: descriptors.energy(gram)[:, 0] / np.log(10),
    "speed: first difference / feature": lambda gram: np.exp(descriptors.dynamics(gram)[:, 0]),
    "curvature: second / first difference": lambda gram: np.exp(descriptors.dynamics(gram)[:, 1]),
    "jerk: third / second difference": lambda gram: np.exp(descriptors.dynamics(gram)[:, 2]),
    "spectral flatness": lambda gram: np.exp(descriptors.spectrum(gram)[:, 0]),
    "power outside the lowest fifth": lambda gram: np.exp(descriptors.spectrum(gram)[:, 1]),
    "least-squares tap on the newest step": lambda gram: descriptors.taps(gram)[:, 0],
    "least-squares tap on the one before": lambda gram: descriptors.taps(gram)[:, 1],
}
"""Descriptors in readable units, ``(channel, step, step) -> (channel,)``."""

LABELS = tuple(solver_label(solver) for solver in POOL)
ONE, OWN, GAP = "one closed form", "one closed form per channel", "one closed form per gap"
PLAIN = "one closed form per channel, by and in plain squared error"
OWN_TAPS = "fitted per channel over fitted one set"
GAP_OVER_OWN = "one closed form per gap over one per channel"
WORTH = 0.9  # a choice is worth something if it leaves at most this share of the cost


def heterogeneity(s: Subject) -> Part:
    """Spread of descriptors, best solver of each channel, and what choosing per channel saves."""
    singles = {name: np.stack([reading(gram) for gram in s.recorded.prompts]) for name, reading in READINGS.items()}

    def median_share(prompts: NDArray[np.int64]) -> Array:
        return np.asarray(np.median([_share(single[prompts]) for single in singles.values()], axis=0))

    shared = {name: float(_share(single)) for name, single in singles.items()}
    spreads = {name: np.quantile(reading(s.recorded.fit), (0.05, 0.5, 0.95)) for name, reading in READINGS.items()}
    spread = {name: (*map(float, found), shared[name]) for name, found in spreads.items()}
    shares, best = _solvers(s)
    left = {name: _savings(s, setup) for name, setup in s.setups.items()}
    savings = {choice: [told(of[choice]) for of in left.values()] for choice in left["searched"]}
    numbers = {
        "variance_between_channels": shared,
        "median_between_channels": bootstrapped(median_share, len(s.recorded.prompts), s.seed),
        "best_shares": shares,
        "choices": left,
        "ridge": s.ridge,
    }
    steps = {name: setup.schedule.computed_steps for name, setup in s.setups.items()}
    text = paragraphs("grouping", "schedules", steps=len(s.searched.step_weights), ridge=s.ridge, **steps)
    tables = table("grouping", "spread", spread), best, table("grouping", "savings", savings)
    return Part(numbers, tables, text)


def one_step_errors(setup: ReplaySetup, gram: Array, targets: range) -> Array:
    """Squared error ``(solver, target, ...)`` of every closed form, the steps just before all computed."""

    def error(solver: ClosedFormSolver, target: int) -> Array:
        history = range(target - 1, max(-1, target - 1 - solver.depth), -1)
        return forecast_error(gram, rows_of(solver, setup.times, history, [target])[:, 0], history, target)

    return np.asarray([[error(solver, target) for target in targets] for solver in POOL])


def best_shares(costs: Array) -> dict[str, float]:
    """Share of channels whose cheapest solver is each; ``costs`` are ``(solver, channel)``."""
    counts = np.bincount(costs.argmin(0), minlength=len(POOL)) / costs.shape[1]
    return dict(zip(LABELS, counts.tolist(), strict=True))


def _share(single: Array) -> Array:
    """Of the variance of ``(..., prompt, channel)``, what is between channels and the same for all prompts."""
    within, between = single.var(-2).mean(-1), single.mean(-2).var(-1)
    return np.asarray(between / np.maximum(within + between, 1e-30))


def _solvers(s: Subject) -> tuple[dict[str, dict[str, float]], Table]:
    """Which closed form is best for how many channels, and what each costs if all use it."""
    steps = len(s.searched.step_weights)
    ahead = range(min(s.searched.deepest, steps - 1), steps)
    costs = [setup.closed_costs(s.recorded.fit).sum(1) for setup in s.setups.values()]
    found = {
        "one step ahead": one_step_errors(s.searched, s.recorded.fit, ahead).sum(1),
        **dict(zip(s.setups, costs, strict=True)),
        "searched, squared error": s.searched.closed_errors(s.recorded.fit),
    }
    shares = {name: best_shares(of) for name, of in found.items()}
    whole = [(cost @ s.gain) / (cost @ s.gain).min() for cost in costs]
    cells = {
        label: [*(100 * share[label] for share in shares.values()), *(float(cost[i]) for cost in whole)]
        for i, label in enumerate(LABELS)
    }
    return shares, table("grouping", "best", cells)


def _savings(s: Subject, setup: ReplaySetup) -> dict[str, Ratio]:
    """Held-out cost of ever finer choices, each made on the fit prompts, over that of one closed form for all."""
    fit = setup.closed_costs(s.recorded.fit) * s.gain  # (solver, gap, channel)
    judged = np.moveaxis(setup.closed_costs(s.recorded.judged) * s.gain, 2, 1)  # (solver, prompt, gap, channel)
    gap, channel = np.asarray(np.indices(fit.shape[1:]))

    def closed(groups: NDArray[Any]) -> Array:
        """One for each group of gaps and channels."""
        flat = fit.reshape(len(POOL), -1), judged.reshape(*judged.shape[:2], -1)
        return best_closed(*flat, members(groups.ravel()))

    def taps(gram: Array) -> Array:
        return np.asarray(setup.cost(s.recorded.judged, setup.fit(gram, s.ridge)) @ s.gain)

    costs = {
        ONE: closed(np.zeros_like(gap)),
        OWN: closed(channel),
        GAP: closed(gap),
        "one closed form per gap and channel": closed(np.arange(gap.size)),
        "fitted taps, one set": taps(np.tensordot(s.gain, s.recorded.fit, axes=1)[None]),
        "fitted taps per channel": taps(s.recorded.fit),
    }
    found = {choice: s.ratio(cost, costs[ONE]) for choice, cost in costs.items()}
    own, one = (best_closed(*s.closed_errors(setup), members(of)) for of in (s.each, np.zeros_like(s.each)))
    found[PLAIN] = s.ratio(own, one)
    found[OWN_TAPS] = s.ratio(costs["fitted taps per channel"], costs["fitted taps, one set"])
    found[GAP_OVER_OWN] = s.ratio(costs[GAP], costs[OWN])
    return found


def rulings(found: Numbers) -> Rulings:
    """By the numbers of `heterogeneity`."""
    left = found["choices"]
    verdicts = {
        "heterogeneous": decide(
            [above(found["median_between_channels"], 0.5), below(left["searched"][OWN_TAPS], WORTH)]
        ),
        "solvers": all_below((of[choice] for of in left.values() for choice in (OWN, PLAIN)), WORTH),
        "along": all_below((of[GAP_OVER_OWN] for of in left.values()), 1),
    }
    most = {name: max(of.items(), key=lambda item: item[1]) for name, of in found["best_shares"].items()}
    return claims("grouping", verdicts, **found, most=most)
