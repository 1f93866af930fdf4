"""Does a mixture of closed forms beat each of them, and may one step choose for many?"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hyca_calib.quality.metrics import interval
from hyca_calib.search.solver_table import POOL
from studies.paper.chapter import Claim, Part, Table, Verdict
from studies.paper.effects import Ratio
from studies.paper.groups.choice import hybrid_cost
from studies.paper.groups.heterogeneity import LABELS, one_step_errors
from studies.paper.groups.subject import USUAL, Subject, members
from studies.paper.replay_setup import Array, Labels, ReplaySetup
from studies.paper.ruling import all_below, any_of, below, decide, ruled, shared_level, told

GOOD = 1.05
WORTH = 0.99
PROBED = 8  # single prompts that choose
PAPER = ("runge_kutta", "adams_bashforth order=2", "newton order=1", "bdf2", "adams_moulton")
POOLS = {"whole pool": np.arange(len(POOL)), "the paper's five": np.array([LABELS.index(label) for label in PAPER])}
EARLY, ONE_PROMPT = "one step of one prompt, early", "at the horizons, one prompt"


def hybrid(s: Subject) -> Part:
    """Held-out costs of mixtures on both schedules, chosen at the horizons or one step ahead."""
    schedules = {"searched": s.searched, "published": s.published}
    tables = {name: s.closed_costs(setup) for name, setup in schedules.items()}
    tables |= {
        f"{name}, squared error": (setup.closed_errors(s.recorded.fit), setup.closed_errors(s.recorded.judged))
        for name, setup in schedules.items()
    }
    mixtures = {name: _mixtures(s, *costs) for name, costs in tables.items()}
    choosing = {name: _choosing(s, setup) for name, setup in schedules.items()}
    numbers = {
        "hybrid_over_best_single": {n: {k: list(v) for k, v in m.items()} for n, m in mixtures.items()},
        "corrected": {name: _corrected(s, *costs) for name, costs in tables.items()},
        "one_step_over_horizon": choosing,
    }
    return Part((_mixture_table(mixtures), _choice_table(choosing)), numbers)


def cost_of_choice(chosen: NDArray[np.int64], judged: Array, groups: list[Labels]) -> Array:
    """Cost ``(prompt,)`` of solver ``chosen[g]`` on group g; ``judged`` is ``(solver, prompt, channel)``."""
    return np.asarray(
        np.sum([judged[solver][:, group].sum(1) for solver, group in zip(chosen, groups, strict=True)], axis=0)
    )


def _mixtures(s: Subject, fit: Array, judged: Array) -> dict[str, tuple[float, float, float]]:
    """Best closed form per group over the best single one, both chosen on the fit prompts."""
    single = judged[int(fit.sum(1).argmin())].sum(1)
    labels = {str(k): s.labels(USUAL, k) for k in s.counts if k > 1} | {"per channel": np.arange(s.channels)}
    found = {k: s.ratio(hybrid_cost(fit, judged, of), single) for k, of in labels.items()}
    # no choice on the fit prompts can be better than the single solver that is best on the judged ones
    hindsight = judged[int(judged.sum((1, 2)).argmin())].sum(1)
    return found | {"best single in hindsight": s.ratio(hindsight, single)}


def _corrected(s: Subject, fit: Array, judged: Array) -> dict[str, Ratio]:
    """The same by number of groups, with intervals that hold the true ratios of all numbers at once."""
    single = judged[int(fit.sum(1).argmin())].sum(1)
    counts = [k for k in s.counts if k > 1]
    return {
        str(k): s.ratio(hybrid_cost(fit, judged, s.labels(USUAL, k)), single, shared_level(len(counts))) for k in counts
    }


def _choosing(s: Subject, setup: ReplaySetup) -> dict[str, dict[str, Any]]:
    """Cost of other ways to choose over choosing at the schedule's horizons on all fit prompts."""
    groups = members(s.labels(USUAL, max(s.few_counts)))
    fit, judged = s.closed_costs(setup)
    found: dict[str, dict[str, Any]] = {}
    for pool, allowed in POOLS.items():
        reference = cost_of_choice(_pick(fit, groups, allowed), judged, groups).sum()
        for way, tables in _bases(s, setup).items():
            costs = [cost_of_choice(_pick(table, groups, allowed), judged, groups).sum() for table in tables]
            ratios = np.array(costs) / reference
            found[f"{way}; {pool}"] = {
                "mean": interval(ratios.tolist(), s.seed),
                "median": float(np.median(ratios)),
                "lowest": float(ratios.min()),
                "highest": float(ratios.max()),
                "choices": len(ratios),
            }
    return found


def _bases(s: Subject, setup: ReplaySetup) -> dict[str, list[Array]]:
    """What a choice may be based on: tables ``(solver, channel)``, one for each prompt that chooses."""
    steps = s.schedule.num_steps
    first = min(max(solver.depth for solver in POOL), steps - 1)
    prompts = s.recorded.prompts[:PROBED]
    probes = {EARLY: first, "one step of one prompt, middle": steps // 2, "one step of one prompt, late": steps - 2}
    found = {
        name: [one_step_errors(setup, gram, range(max(first, step), max(first, step) + 1))[:, 0] for gram in prompts]
        for name, step in probes.items()
    }
    found["one step, mean over all steps and prompts"] = [
        one_step_errors(setup, s.recorded.fit, range(first, steps)).sum(1)
    ]
    found[ONE_PROMPT] = [setup.closed_costs(gram).sum(1) * s.gain for gram in prompts]
    return found


def _pick(costs: Array, groups: list[Labels], allowed: NDArray[np.int64]) -> NDArray[np.int64]:
    """Cheapest allowed solver of each group; ``costs`` are ``(solver, channel)``."""
    totals = np.stack([costs[np.ix_(allowed, group)].sum(1) for group in groups], axis=1)
    return np.asarray(allowed[totals.argmin(0)])


def _mixture_table(mixtures: dict[str, dict[str, tuple[float, float, float]]]) -> Table:
    names = next(iter(mixtures.values()))
    cells = {name: [told(mixture[name]) for mixture in mixtures.values()] for name in names}
    caption = (
        f"Best of {len(LABELS)} closed forms per group (k-means, {USUAL}) over the best single one, both chosen on the "
        "fit prompts: held-out ratio with 95 % interval over prompts, of the replay cost and of the plain squared "
        "feature error, by which HyCa chooses."
    )
    return Table.of(caption, ("groups", *mixtures), cells)


def _choice_table(choosing: dict[str, dict[str, dict[str, Any]]]) -> Table:
    rows = tuple(
        (schedule, name, cell["median"], cell["lowest"], cell["highest"])
        for schedule, cells in choosing.items()
        for name, cell in cells.items()
    )
    caption = (
        "HyCa's One-Time Choosing: the solver of each group by its error one step ahead, over choosing by cost at the "
        "horizons of the schedule on all fit prompts; held-out cost ratio over the prompts that chose. The paper's "
        f"five kinds of solver are {', '.join(PAPER)}."
    )
    return Table(caption, ("schedule", "chosen by", "median", "lowest", "highest"), rows)


def claims(found: dict[str, Any]) -> tuple[Claim, ...]:
    """Verdicts of the numbers of `hybrid`."""
    return (
        ruled(
            "A hybrid beats every single solver (by at least 1 % at some number of groups, corrected for the numbers "
            "tried; on each schedule, in cost and in plain squared error).",
            lambda: _mixes(found["hybrid_over_best_single"], found["corrected"]),
        ),
        ruled(
            "One-step choosing on one prompt is good enough for multi-step use (at most 5 % dearer than choosing at "
            "the horizons, mean over the prompts that choose).",
            lambda: _chooses(found["one_step_over_horizon"]),
        ),
    )


def _mixes(plain: dict[str, dict[str, Ratio]], corrected: dict[str, dict[str, Ratio]]) -> tuple[Verdict, str]:
    best = {name: min(ratios.items(), key=lambda item: item[1][0]) for name, ratios in corrected.items()}
    met = [any_of(below(found, WORTH) for found in ratios.values()) for ratios in corrected.values()]
    told_of = "; ".join(f"{name} {told(ratio)} at {k} groups" for name, (k, ratio) in best.items())
    each = ", ".join(told(mixture["per channel"]) for mixture in plain.values())
    return decide(met), f"{told_of}; per channel {each}."


def _chooses(choosing: dict[str, dict[str, dict[str, Any]]]) -> tuple[Verdict, str]:
    once = {f"{n}, {pool}": cells[f"{EARLY}; {pool}"] for n, cells in choosing.items() for pool in POOLS}
    whole = [cells[f"{ONE_PROMPT}; {pool}"]["median"] for cells in choosing.values() for pool in POOLS]
    return (
        all_below((cell["mean"] for cell in once.values()), GOOD),
        "cost ratio of an early step "
        + "; ".join(f"{name} {told(cell['mean'])}, up to {cell['highest']:.2f}" for name, cell in once.items())
        + f"; the same single prompts choosing at the horizons at most {max(whole):.3f} in the median.",
    )
