"""Do feature dimensions move differently, and do they want different solvers?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from hyca_calib.features import descriptors
from hyca_calib.search.replay import forecast_error, rows_of
from hyca_calib.search.solver_table import POOL, solver_label
from studies.paper.chapter import Claim, Part, Table, Verdict
from studies.paper.effects import Ratio, quantiles
from studies.paper.groups.subject import Subject
from studies.paper.replay_setup import Array, ReplaySetup
from studies.paper.ruling import above, all_below, below, decide, ruled, told

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
PLAIN = "one closed form per channel, by and in plain squared error"
OWN_TAPS = "fitted per channel over fitted one set"
GAP_OVER_OWN = "one closed form per gap over one per channel"
DRAWS = 2000
WORTH = 0.9  # a choice is worth something if it leaves at most this share of the cost


def heterogeneity(s: Subject) -> Part:
    """Spread of descriptors, best solver of each channel, and what choosing per channel saves."""
    spread, shared = _spread(s)
    shares, share_table = _solvers(s)
    saved, saving_table = _savings(s)
    numbers = {
        "variance_between_channels": shared,
        "median_between_channels": _median_share(s),
        "best_shares": shares,
        "choices": saved,
        "ridge": s.ridge,
    }
    return Part((spread, share_table, saving_table), numbers, (_text(s),))


def one_step_errors(setup: ReplaySetup, gram: Array, targets: range) -> Array:
    """Squared error ``(solver, target, ...)`` of every closed form, the steps just before all computed."""
    found = []
    for solver in POOL:
        histories = [tuple(range(t - 1, max(-1, t - 1 - solver.depth), -1)) for t in targets]
        rows = [rows_of(solver, setup.times, h, [t])[:, 0] for h, t in zip(histories, targets, strict=True)]
        found.append([forecast_error(gram, row, h, t) for row, h, t in zip(rows, histories, targets, strict=True)])
    return np.asarray(found)


def best_shares(costs: Array) -> dict[str, float]:
    """Share of channels whose cheapest solver is each; ``costs`` are ``(solver, channel)``."""
    counts = np.bincount(costs.argmin(0), minlength=len(POOL)) / costs.shape[1]
    return dict(zip(LABELS, counts.tolist(), strict=True))


def choices(s: Subject, setup: ReplaySetup) -> dict[str, Array]:
    """Held-out cost ``(prompt,)`` of ever finer choices, each made on the fit prompts."""
    fit = setup.closed_costs(s.recorded.fit) * s.gain  # (solver, gap, channel)
    judged = np.moveaxis(setup.closed_costs(s.recorded.judged) * s.gain, 2, 0)  # (prompt, solver, gap, channel)
    gap, channel = np.indices(fit.shape[1:])

    def of(solver: Array | np.intp) -> Array:
        return np.asarray(judged[:, np.broadcast_to(solver, gap.shape), gap, channel].sum((1, 2)))

    def taps(gram: Array) -> Array:
        return np.asarray(setup.cost(s.recorded.judged, setup.fit(gram, s.ridge)) @ s.gain)

    return {
        "one closed form": of(fit.sum((1, 2)).argmin()),
        "one closed form per channel": of(fit.sum(1).argmin(0)),
        "one closed form per gap": of(fit.sum(2).argmin(0)[:, None]),
        "one closed form per gap and channel": of(fit.argmin(0)),
        "fitted taps, one set": taps(np.tensordot(s.gain, s.recorded.fit, axes=1)[None]),
        "fitted taps per channel": taps(s.recorded.fit),
    }


def _error_choice(s: Subject, setup: ReplaySetup) -> list[float]:
    """Held-out plain squared error of one closed form per channel over one for all, with interval."""
    fit, judged = setup.closed_errors(s.recorded.fit), setup.closed_errors(s.recorded.judged)
    own = judged[fit.argmin(0), :, np.arange(s.channels)].sum(0)
    return list(s.ratio(own, judged[int(fit.sum(1).argmin())].sum(1)))


def _spread(s: Subject) -> tuple[Table, dict[str, float]]:
    rows, shared = [], {}
    for name, reading in READINGS.items():
        single = np.stack([reading(gram) for gram in s.recorded.prompts])  # (prompt, channel)
        shared[name] = _share(single)
        low, middle, high = np.quantile(reading(s.recorded.fit), (0.05, 0.5, 0.95))
        rows.append((name, float(low), float(middle), float(high), shared[name]))
    head = ("descriptor", "5 % of channels below", "median", "95 % below", "variance that is between channels")
    caption = (
        "How channels move along the full run. The last column: of the variance over channels and single "
        "prompts, the share that is between channels and stays from prompt to prompt."
    )
    return Table(caption, head, tuple(rows)), shared


def _share(single: Array) -> float:
    """Of the variance of ``(prompt, channel)``, what is between channels and the same for all prompts."""
    within, between = single.var(0).mean(), single.mean(0).var()
    return float(between / max(within + between, 1e-30))


def _median_share(s: Subject) -> Ratio:
    """Median of that share over the descriptors, with its bootstrap interval over prompts."""
    every = [np.stack([reading(gram) for gram in s.recorded.prompts]) for reading in READINGS.values()]
    count = len(s.recorded.prompts)
    draws = np.random.default_rng(s.seed).integers(0, count, (DRAWS, count))
    medians = np.array([np.median([_share(single[picked]) for single in every]) for picked in draws])
    return float(np.median([_share(single) for single in every])), *quantiles(medians, count)


def _solvers(s: Subject) -> tuple[dict[str, dict[str, float]], Table]:
    deepest = max(solver.depth for solver in POOL)
    steps = range(min(deepest, s.schedule.num_steps - 1), s.schedule.num_steps)
    searched, published = (a.closed_costs(s.recorded.fit).sum(1) for a in (s.searched, s.published))
    shares = {
        "one step ahead": best_shares(one_step_errors(s.searched, s.recorded.fit, steps).sum(1)),
        "searched": best_shares(searched),
        "published": best_shares(published),
    }
    shares["searched, squared error"] = best_shares(s.searched.closed_errors(s.recorded.fit))
    whole = [(costs @ s.gain) / (costs @ s.gain).min() for costs in (searched, published)]
    cells = {
        label: [*(100 * share[label] for share in shares.values()), *(float(costs[i]) for costs in whole)]
        for i, label in enumerate(LABELS)
    }
    head = ("solver", "best one step ahead, % of channels", "best on the searched schedule, %")
    more = ("best on the published rule, %", "searched, by plain squared error, %")
    costs_told = ("cost if used for all, searched", "cost if used for all, published")
    caption = (
        "Which closed form is best for how many channels (fit prompts). Costs are relative to the best single one."
    )
    return shares, Table.of(caption, head + more + costs_told, cells)


def _savings(s: Subject) -> tuple[dict[str, dict[str, list[float]]], Table]:
    setups = {"searched": s.searched, "published": s.published}
    found = {name: choices(s, setup) for name, setup in setups.items()}
    left = {
        name: {choice: list(s.ratio(cost, costs["one closed form"])) for choice, cost in costs.items()}
        for name, costs in found.items()
    }
    for name, setup in setups.items():
        costs = found[name]
        left[name][PLAIN] = _error_choice(s, setup)
        one, own = costs["fitted taps, one set"], costs["fitted taps per channel"]
        left[name][OWN_TAPS] = list(s.ratio(own, one))
        gap, channel = costs["one closed form per gap"], costs["one closed form per channel"]
        left[name][GAP_OVER_OWN] = list(s.ratio(gap, channel))
    cells = {choice: [told(left[name][choice]) for name in found] for choice in left["searched"]}
    caption = "Held-out replay cost relative to one closed form for all, with 95 % intervals over prompts."
    return left, Table.of(caption, ("choice", "searched schedule", "published rule"), cells)


def claims(found: dict[str, Any]) -> tuple[Claim, ...]:
    """Verdicts of the numbers of `heterogeneity`."""
    left, names = found["choices"], ("searched", "published")
    own = {name: left[name]["one closed form per channel"] for name in names}
    plain = {name: left[name][PLAIN] for name in names}
    gap = {name: left[name]["one closed form per gap"] for name in names}
    most = {name: max(found["best_shares"][name].items(), key=lambda item: item[1]) for name in names}
    return (
        ruled(
            "Feature dimensions are heterogeneous (most descriptor variance is between channels, and taps of their "
            "own save at least 10 %).",
            lambda: _heterogeneous(found["median_between_channels"], left["searched"][OWN_TAPS]),
        ),
        ruled(
            "Different dimensions want different solvers (choosing a closed form per channel saves at least 10 %, on "
            "each schedule, in replay cost and in plain squared error).",
            lambda: (
                all_below((of[name] for name in names for of in (own, plain)), WORTH),
                "; ".join(
                    f"{name}: {most[name][0]} is best for {most[name][1]:.0%} of channels, choosing per channel leaves "
                    f"{told(own[name])} of the cost, {told(plain[name])} of the plain squared error"
                    for name in names
                )
                + ".",
            ),
        ),
        ruled(
            "The best solver changes along the run more than across channels (choosing per gap saves more than "
            "choosing per channel, on each schedule).",
            lambda: (
                all_below((left[name][GAP_OVER_OWN] for name in names), 1),
                "; ".join(
                    f"{n}: per gap leaves {told(gap[n])}, per channel {told(own[n])}, one over the other "
                    f"{told(left[n][GAP_OVER_OWN])}"
                    for n in names
                )
                + ".",
            ),
        ),
    )


def _heterogeneous(shared: Ratio, taps: Ratio) -> tuple[Verdict, str]:
    verdict = decide([above(shared, 0.5), below(taps, WORTH)])
    return verdict, (
        f"the median descriptor has {told(shared)} of its variance between channels; taps per channel leave "
        f"{told(taps)} of the cost of one set of taps."
    )


def _text(s: Subject) -> str:
    return (
        f"All groupings compete on one searched {len(s.schedule.computed_steps)}-of-{s.schedule.num_steps} schedule "
        f"(computed: {', '.join(map(str, s.schedule.computed_steps))}) and, for closed forms, on the published rule "
        f"with {len(s.rule.computed_steps)} computed steps ({', '.join(map(str, s.rule.computed_steps))}). Groups, "
        "solvers and taps come from the fit prompts; every cost is on the select prompts, a replay of the full run "
        f"(the accelerated run's own drift is not in it). Ridge {s.ridge:g}, chosen by cross-validation over prompts."
    )
