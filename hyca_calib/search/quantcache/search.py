"""Plans of QuantCache under a budget: the gentlest counters with which it is met, blocks that are passed by, bits."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hyca_calib.costs.budget import Budget
from hyca_calib.pipelines.workload import Job
from hyca_calib.search.assemble import origin, section_of
from hyca_calib.search.kept_runs import Rows, measured
from hyca_calib.search.outcome import NOT_SEARCHED, judged, write_outcome
from hyca_calib.search.precision.variants import KnownVariants
from hyca_calib.search.problem import Problem
from hyca_calib.search.quantcache.balance import Balance
from hyca_calib.search.quantcache.bits import Importance, Schemes
from hyca_calib.search.quantcache.calibration import MOVING, OUTPUT, PLAIN, PROBED, parts_of_blocks
from hyca_calib.search.quantcache.counters import Counters, computed_steps, gentlest
from hyca_calib.search.quantcache.passing import Passing, unrest_of
from hyca_calib.search.quantcache.site import Site
from hyca_calib.search.rollout_error import log_errors
from hyca_calib.search.smoothcache.calibration import Changes
from hyca_calib.search.sources import QUANTCACHE, SOURCES
from hyca_calib.search.study import StudyFolder
from hyca_runtime.attach.points import find_transformer
from hyca_runtime.errors import BudgetError
from hyca_runtime.forecast import Forecast
from hyca_runtime.group import DimensionGroup, SolverSpec, encode_channels
from hyca_runtime.network_plan import NetworkPlan
from hyca_runtime.plan import Plan
from hyca_runtime.schedule import COMPUTE, EVERY, Action, Schedule
from hyca_runtime.solvers import Fitted, Hold
from hyca_runtime.variant import Scheme, VariantSpec

COARSE: Scheme = "int8"
CAREFUL: Scheme = "int8_weights"
"""Variants: activations of 8 bits, and whole ones."""
ALIKE = 2 / 3
"""Share of the divergences of computed steps that are small enough for activations of 8 bits."""
REUSES = Action(forecast=(OUTPUT,))


@dataclass(frozen=True)
class Calibrated:
    """What full runs told.

    Attributes:
        distances, cosines, importance: see `calibration`.
        allotted: schemes of the layers, by path.
        balance: of the layers whose input is balanced.
    """

    distances: Changes
    cosines: Mapping[str, Sequence[float]]
    importance: Importance
    allotted: Schemes
    simulated: bool
    balance: Balance

    @property
    def specs(self) -> dict[str, VariantSpec]:
        """The variants: both have the same layers of four bits, and of the network's own."""
        others = {path: scheme for path, scheme in self.allotted.items() if scheme != COARSE} or None
        alike = VariantSpec(scheme=COARSE, simulated=self.simulated, schemes=others, balance=self.balance or None)
        return {scheme: alike.model_copy(update={"scheme": scheme}) for scheme in (COARSE, CAREFUL)}


def calibrated(
    pipe: Any,
    problem: Problem,
    distances: Changes,
    cosines: Mapping[str, Sequence[float]],
    importance: Importance,
    simulated: bool,
) -> Calibrated:
    """With the bits that importance says, layer by layer."""
    network = find_transformer(pipe, problem.trace.attributes.model.component)
    schemes, parts = importance.allotted(), parts_of_blocks(network)
    allotted = {path: schemes[part] for part, paths in parts.items() for path in paths}
    balanced = {path for part, paths in parts.items() if (schemes[part], part) in importance.balanced for path in paths}
    balance = {path: of for path, of in importance.balance.items() if path in balanced}
    return Calibrated(distances, cosines, importance, allotted, simulated, balance)


def with_balance_that_pays(
    pipe: Any, problem: Problem, site: Site, known: Calibrated, folder: Path, on_progress: Callable[[float], None]
) -> Calibrated:
    """`known` without balance, if whole runs in low precision are nearer so.

    What a single call shows is not enough: balance shrinks errors of activations, which are new on every step, and may
    enlarge those of weights, which are alike on all of them and add up in the sample.

    Args:
        folder: where the error of each run is kept.
    """
    if not known.balance:
        return known
    samples, low = problem.samples("fit")[:PROBED], [Action(variant=COARSE)] * problem.trace.num_steps
    ways = {"balanced": known, "plain": replace(known, balance={})}
    sections = {name: reusing_section(problem, site, way, low) for name, way in ways.items()}

    def errors(job: Job) -> Rows:
        alone = samples[[samples.jobs.index(job)]]
        return {name: [[log_errors(pipe, section, alone).item()]] for name, section in sections.items()}

    of = f"{problem.identity}, whole runs in {known.specs[COARSE]}: {', '.join(sorted(known.balance))}"
    rows = measured(folder / "balance.json", of, samples.jobs, errors, on_progress)
    best = min(ways, key=lambda name: sum(row[name][0][0] for row in rows))
    return ways[best]


@dataclass(frozen=True)
class Found:
    """The counters of a budget, and what each step does."""

    counters: Counters
    passing: Passing
    threshold: float
    actions: tuple[Action, ...]


def actions_under(known: Calibrated, site: Site, counters: Counters, num_steps: int, first: int, seed: int) -> Found:
    """What each step does under some counters."""
    steps = computed_steps(known.distances[MOVING], counters, num_steps, first)
    unrest = unrest_of(known.distances[PLAIN], num_steps, counters.lengths[1])
    cosines = {block: of for block, of in known.cosines.items() if block in site.layers.points}
    passing = Passing.fitted(cosines, unrest, seed)
    passed = passing.passed(cosines, unrest, list(steps))
    finite = [divergence for divergence in steps.values() if math.isfinite(divergence)]
    threshold = float(np.quantile(finite, ALIKE)) if finite else 0.0

    def action(step: int) -> Action:
        if step not in steps:
            return REUSES
        return Action(forecast=passed[step], variant=COARSE if steps[step] < threshold else CAREFUL)

    return Found(counters, passing, threshold, tuple(map(action, range(num_steps))))


def find_counters(problem: Problem, budget: Budget, site: Site, known: Calibrated, seed: int) -> Found:
    """Those that compute most and meet a budget.

    Raises:
        BudgetError: none does.
    """
    steps, bits, least = problem.trace.num_steps, budget.measure == "bitops", math.inf
    full, reused = site.costs((COMPUTE, REUSES), known.specs, bits)
    allowed = (1 + 1e-9) * budget.most_flops(full, reused, steps)
    for counters in gentlest(known.distances[MOVING]):
        found = actions_under(known, site, counters, steps, problem.trace.attributes.first_computed, seed)
        spent = sum(site.costs(found.actions, known.specs, bits))
        if spent <= allowed:
            return found
        least = min(least, spent)
    most = math.floor(100 * steps * full / least) / 100
    raise BudgetError(f"budget {budget.text!r} cannot be met by quantcache: {most}x is the most; ask for less")


def reusing_section(problem: Problem, site: Site, known: Calibrated, actions: Sequence[Action]) -> NetworkPlan:
    """The section whose steps do so."""
    used = list(dict.fromkeys([COMPUTE, REUSES, *actions]))
    schedule = Schedule(palette=tuple(used), tables={EVERY: tuple(used.index(action) for action in actions)})
    specs = known.specs
    points = {
        name: _forecast(site, name, schedule.steps_of(name))
        for name in dict.fromkeys(n for a in used for n in a.forecast)
    }
    variants = KnownVariants(specs, site.own_bits, dict.fromkeys(specs, 0.0), {})
    flops = tuple(site.costs(used, specs, bits=False))
    section = section_of(replace(problem, variants=variants), "step", points, schedule, flops)
    return section.model_copy(update={"action_bits": tuple(site.costs(used, specs, bits=True))})


def _forecast(site: Site, name: str, steps: Sequence[int]) -> Forecast:
    """Outputs are held; of a block that is passed by what it adds is nothing."""
    channels = site.layers.channels[name]
    solver: SolverSpec = Hold().spec() if name == OUTPUT else Fitted(tuple(steps), np.zeros((len(steps), 1, 1))).spec()
    fallback = None if name == OUTPUT else Hold().spec()
    group = DimensionGroup(name="all", channels=encode_channels(range(channels)), solver=solver, fallback=fallback)
    at, numel = site.layers.points[name], site.layers.numel[name]
    return Forecast(at=at, num_channels=channels, groups={EVERY: (group,)}, numel=numel)


def search_quantcache(
    pipe: Any, problem: Problem, budget: Budget, study: StudyFolder, site: Site, known: Calibrated, seed: int
) -> Plan:
    """The plan of the gentlest counters that meet `budget`, written with its account into `study`.

    Raises:
        BudgetError: it cannot be met.
    """
    found = find_counters(problem, budget, site, known, seed)
    section = judged(pipe, problem, reusing_section(problem, site, known, found.actions))
    counters, passing = found.counters, found.passing
    settings = {
        "counters": list(counters.lengths),
        "divergence": list(counters.thresholds),
        "cosine": [passing.low, passing.high],
        "unrest": [passing.calm, passing.wild],
        "seed": passing.seed,
        "activations": f"{COARSE} below a divergence of {found.threshold:.3g}, else {CAREFUL}",
        "simulated": known.simulated,
    }
    schemes = known.importance.allotted()
    account = {
        **NOT_SEARCHED,
        "preset": QUANTCACHE,
        "source": SOURCES[QUANTCACHE],
        "settings": settings,
        "computed": [step for step, action in enumerate(found.actions) if action != REUSES],
        "passed": {step: list(a.forecast) for step, a in enumerate(found.actions) if a != REUSES and a.forecast},
        "bits": {part: known.importance.bits(scheme) for part, scheme in schemes.items()},
        "mean_bits": known.importance.mean_bits(schemes),
        "balanced": sorted(known.balance),
        "groups": [
            {"size": forecast.num_channels, "solver": forecast.groups_of()[0].solver.name}
            for forecast in section.points.values()
        ],
    }
    told = {**origin(problem), "settings": settings}
    return write_outcome(pipe, study, problem, section, budget, QUANTCACHE, told, account)
