"""Which groups forecast best; does a mixture of closed forms beat each of them, and may one step choose for many?"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from hyca_calib.clusters.base import Labels
from hyca_calib.quality.metrics import interval
from hyca_calib.search.replay import Array, grouped
from hyca_calib.search.solver_table import POOL
from studies.paper.chapter import Numbers, Part, Rulings
from studies.paper.groups.heterogeneity import LABELS, one_step_errors
from studies.paper.groups.subject import HORIZON, PAIRED, USUAL, Subject, best_closed
from studies.paper.intervals import Ratio, all_below, any_of, below, decide, shared_level, told
from studies.paper.replay import ReplaySetup, members
from studies.paper.words import claims, table

DESCENT, RANDOM = "cost descent", "random"
DRAWS = 5
DEAR, HANDFUL = 0.02, 16


def choice(s: Subject) -> Part:
    """Held-out cost of every way of grouping, over the number of groups."""
    ways = {
        (name, how): [s.labels(name, k, how) for k in s.counts] for name in s.descriptor_sets for how in s.clusterers
    }
    labelings = {", ".join(way): labels for way, labels in ways.items()}
    labelings[DESCENT] = [descend(s, labels) for labels in ways[HORIZON, "kmeans"]]
    costs = {way: [s.judge(s.group_rows(labels)) for labels in found] for way, found in labelings.items()}
    costs[RANDOM] = [by_chance(s, labels) for labels in ways[USUAL, "kmeans"]]
    fitted = {way: [float(cost.mean()) for cost in found] for way, found in costs.items()}
    own = s.judge(s.searched.fit(s.recorded.fit, s.ridge))
    forms = s.closed_costs(s.searched)
    closed = {
        name: [float(best_closed(*forms, members(of)).mean()) for of in (*ways[name, "kmeans"], s.each)]
        for name in s.descriptor_sets
    }
    horizon = costs[f"{HORIZON}, kmeans"]
    numbers = {
        "fitted": fitted,
        "closed_forms": closed,
        "counts": list(s.counts),
        "fitted_per_channel": float(own.mean()),
        "horizon_over": {
            str(k): {n: s.ratio(horizon[i], costs[f"{n}, kmeans"][i]) for n in s.descriptor_sets if n != HORIZON}
            for i, k in enumerate(s.counts)
            if k > 1
        },
        "horizon_over_channels": {str(k): s.ratio(horizon[i], own) for i, k in enumerate(s.counts)},
    }
    over_own = {way: [cost / float(own.mean()) for cost in found] for way, found in fitted.items()}
    one = closed[USUAL][0]
    over_one = {name: [cost / one for cost in found] for name, found in closed.items()}
    tables = (
        table("grouping", "fitted", over_own, own=own.mean(), columns=s.counts),
        table("grouping", "closed", over_one, one=one, columns=s.counts),
    )
    return Part(numbers, tables)


def descend(s: Subject, labels: Labels, rounds: int = 30) -> Labels:
    """Move channels from `labels` on to groups whose taps cost them least, refit, repeat: clustering on the cost."""
    setup, gram = s.searched, s.recorded.fit
    for _ in range(rounds):
        rows = setup.fit(grouped(gram, s.gain, members(labels)), s.ridge)
        costs = [setup.cost(gram, [taps[g : g + 1] for taps in rows]) for g in range(len(rows[0]))]
        better = np.stack(costs).argmin(0)
        if (better == np.unique(labels, return_inverse=True)[1]).all():
            break
        labels = better
    return labels


def random_labels(labels: Labels, seed: int) -> Labels:
    """Groups of the same sizes, drawn by chance."""
    return np.random.default_rng(seed).permutation(labels)


def by_chance(s: Subject, labels: Labels) -> Array:
    """Held-out cost ``(prompt,)`` of groups of the same sizes, mean over a few draws."""
    drawn = [random_labels(labels, s.seed + i) for i in range(DRAWS)]
    return np.asarray(np.mean([s.judge(s.group_rows(of)) for of in drawn], axis=0))


def rulings(found: Numbers) -> Rulings:
    """By the numbers of `choice`."""
    cells = found["horizon_over_channels"]
    handful = max((int(k) for k in cells if int(k) <= HANDFUL), default=0)
    verdicts = {
        "horizon": all_below((ratio for of in found["horizon_over"].values() for ratio in of.values()), 1),
        "enough": decide([below(cells[str(handful)], 1 + DEAR)]),
    }
    return claims("grouping", verdicts, **found, handful=HANDFUL)


GOOD = 1.05
WORTH = 0.99
PAPER = ("runge_kutta", "adams_bashforth order=2", "newton order=1", "bdf2", "adams_moulton")
POOLS = {"whole pool": range(len(POOL)), "the paper's five": [LABELS.index(label) for label in PAPER]}
EARLY, ONE_PROMPT = "one step of one prompt, early", "at the horizons, one prompt"


def hybrid(s: Subject) -> Part:
    """Held-out costs of mixtures on both schedules, chosen at the horizons or one step ahead."""
    costs = {name: s.closed_costs(setup) for name, setup in s.setups.items()}
    costs |= {f"{name}, squared error": s.closed_errors(setup) for name, setup in s.setups.items()}
    several = {str(k): s.labels(USUAL, k) for k in s.counts if k > 1}
    mixtures = {name: over_single(s, *of, several | {"per channel": s.each}) for name, of in costs.items()}
    for name, (_, judged) in costs.items():
        # no choice on the fit prompts can be better than the single solver that is best on the judged ones
        hindsight = best_closed(judged.sum(1), judged, [s.each])
        mixtures[name]["best single in hindsight"] = s.ratio(hindsight, best_closed(*costs[name], [s.each]))
    choosing = {name: _choosing(s, setup) for name, setup in s.setups.items()}
    level = shared_level(len(several))  # of intervals that hold the true ratios of all numbers of groups at once
    numbers = {
        "hybrid_over_best_single": mixtures,
        "corrected": {name: over_single(s, *of, several, level) for name, of in costs.items()},
        "one_step_over_horizon": choosing,
    }
    forms = {name: [told(of[name]) for of in mixtures.values()] for name in mixtures["searched"]}
    once = {
        (schedule, name): [cell[of] for of in ("median", "lowest", "highest")]
        for schedule, cells in choosing.items()
        for name, cell in cells.items()
    }
    tables = (
        table("grouping", "best_forms", forms, pool=len(LABELS), usual=USUAL, columns=mixtures),
        table("grouping", "one_time", once, five=PAPER),
    )
    return Part(numbers, tables)


def over_single(
    s: Subject, fit: Array, judged: Array, labels: Mapping[str, Labels], level: float = 0.95
) -> dict[str, Ratio]:
    """Best closed form per group over the best single one, both chosen on the fit prompts."""
    single = best_closed(fit, judged, [s.each])
    return {name: s.ratio(best_closed(fit, judged, members(of)), single, level) for name, of in labels.items()}


def _choosing(s: Subject, setup: ReplaySetup) -> dict[str, dict[str, Any]]:
    """Cost of other ways to choose over choosing at the schedule's horizons on all fit prompts."""
    groups = members(s.labels(USUAL, max(s.few_counts)))
    fit, judged = s.closed_costs(setup)
    bases, found = _bases(s, setup), {}
    for pool, allowed in POOLS.items():
        reference = best_closed(fit, judged, groups, allowed).sum()
        for way, tables in bases.items():
            ratios = [float(best_closed(table, judged, groups, allowed).sum() / reference) for table in tables]
            found[f"{way}; {pool}"] = {
                "mean": interval(ratios, s.seed),
                "median": float(np.median(ratios)),
                "lowest": min(ratios),
                "highest": max(ratios),
                "choices": len(ratios),
            }
    return found


def _bases(s: Subject, setup: ReplaySetup) -> dict[str, list[Array]]:
    """What a choice may be based on: tables ``(solver, channel)``, one for each prompt that chooses."""
    steps, prompts = len(setup.step_weights), s.recorded.prompts[:PAIRED]
    first = min(setup.deepest, steps - 1)
    probes = {EARLY: first, "one step of one prompt, middle": steps // 2, "one step of one prompt, late": steps - 2}
    found = {
        name: [one_step_errors(setup, gram, range(max(first, step), max(first, step) + 1))[:, 0] for gram in prompts]
        for name, step in probes.items()
    }
    every = one_step_errors(setup, s.recorded.fit, range(first, steps)).sum(1)
    found["one step, mean over all steps and prompts"] = [every]
    found[ONE_PROMPT] = [setup.closed_costs(gram).sum(1) * s.gain for gram in prompts]
    return found


def hybrid_rulings(found: Numbers) -> Rulings:
    """By the numbers of `hybrid`."""
    corrected, choosing = found["corrected"], found["one_step_over_horizon"]
    once = {f"{n}, {pool}": cells[f"{EARLY}; {pool}"] for n, cells in choosing.items() for pool in POOLS}
    whole = max(cells[f"{ONE_PROMPT}; {pool}"]["median"] for cells in choosing.values() for pool in POOLS)
    verdicts = {
        "hybrid": decide([any_of(below(ratio, WORTH) for ratio in ratios.values()) for ratios in corrected.values()]),
        "choosing": all_below((cell["mean"] for cell in once.values()), GOOD),
    }
    return claims("grouping", verdicts, **found, once=once, whole=whole)
