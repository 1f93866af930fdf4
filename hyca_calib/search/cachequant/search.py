"""Plans of CacheQuant under a budget. Calibration is in the order that was published: distances of full runs, groups,
what is reused against what full runs have instead, and then the quantised layers under that very plan."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from hyca_calib.costs.budget import Budget
from hyca_calib.pipelines.workload import Split
from hyca_calib.search.assemble import origin
from hyca_calib.search.cachequant.drift import drift, jobs_of
from hyca_calib.search.cachequant.groups import Grouping, best_groups, total_cost
from hyca_calib.search.cachequant.outputs import output_errors
from hyca_calib.search.cachequant.section import cached_section
from hyca_calib.search.cachequant.site import DEVIATION, Site
from hyca_calib.search.outcome import NOT_SEARCHED, judged, write_outcome
from hyca_calib.search.problem import Problem
from hyca_calib.search.smoothcache.calibration import Changes
from hyca_calib.search.sources import CACHEQUANT, SOURCES
from hyca_calib.search.study import StudyFolder
from hyca_runtime.errors import BudgetError
from hyca_runtime.network_plan import NetworkPlan
from hyca_runtime.plan import Plan

Progress = Callable[[float], None]
SPLITS: tuple[Split, ...] = ("fit", "select")
"""What corrections are fitted to, and what shows whether they hold for others."""


def grouping_of(problem: Problem, budget: Budget, site: Site) -> Grouping:
    """The groups of the least mean length with which a budget is met.

    Raises:
        BudgetError: none does it.
    """
    trace, (full, computed, reused) = problem.trace, site.costs(budget.measure)
    steps, first = trace.num_steps, trace.attributes.first_computed
    allowed, spent = (1 + 1e-9) * budget.most_flops(full, reused, steps), math.inf
    for interval in range(1, steps - first + 2):
        grouping = Grouping(steps, interval, first)
        spent = grouping.count * computed + (steps - grouping.count) * reused
        if spent <= allowed:
            return grouping
    most = math.floor(100 * steps * full / spent) / 100
    raise BudgetError(
        f"budget {budget.text!r} cannot be met by cachequant: with all but a span of blocks computed on every step, "
        f"{most}x is the most{' of bit operations' * (budget.measure == 'bitops')}; ask for less"
    )


def search_cachequant(
    pipe: Any,
    problem: Problem,
    budget: Budget,
    study: StudyFolder,
    site: Site,
    distances: Changes,
    on_progress: Progress = lambda share: None,
) -> Plan:
    """The plan of the least groups that meet `budget`, written with its account into `study`. A second call goes on
    from an interrupted calibration.

    Raises:
        BudgetError: it cannot be met.
    """
    grouping = grouping_of(problem, budget, site)
    begins = best_groups(distances[DEVIATION], grouping)
    section: NetworkPlan = cached_section(problem, site, begins)
    left: Mapping[Split, Mapping[str, float]] = {}
    if grouping.count < grouping.num_steps:
        section, left = _corrected(pipe, problem, site, begins, study, on_progress)
    settings = {
        "precision": str(site.variants.specs[site.variant]),
        "span": str(section.places[DEVIATION]),
        "interval": grouping.interval,
        "distance": total_cost(distances[DEVIATION], begins, grouping.num_steps),
        "distance of equal groups": total_cost(distances[DEVIATION], grouping.even, grouping.num_steps),
        "samples": len(jobs_of(problem, "fit")),
    }
    account = {
        **NOT_SEARCHED,
        "preset": CACHEQUANT,
        "source": SOURCES[CACHEQUANT],
        "settings": settings,
        "computed": list(begins),
        "groups": [{"size": section.forecast.num_channels, "solver": section.forecast.groups_of()[0].solver.name}],
        "left": left,
    }
    told = {**origin(problem), "settings": settings}
    return write_outcome(pipe, study, problem, judged(pipe, problem, section), budget, CACHEQUANT, told, account)


def _corrected(
    pipe: Any, problem: Problem, site: Site, begins: tuple[int, ...], study: StudyFolder, on_progress: Progress
) -> tuple[NetworkPlan, Mapping[Split, Mapping[str, float]]]:
    """The section with its corrections, and what these leave of squared errors, on the runs that they are fitted to and
    on others."""
    points, folder = site.layers.points, study.folder

    def part(number: int, share: float) -> None:
        on_progress((number + share) / 4)

    drifts = {
        split: drift(pipe, problem, points, begins, split, folder, partial(part, number))[DEVIATION]
        for number, split in enumerate(SPLITS)
    }
    reused = drifts["fit"].affine()
    section = cached_section(problem, site, begins, reused)
    errors = {
        split: output_errors(pipe, problem, section, site.readers, split, folder, partial(part, number))
        for number, split in enumerate(SPLITS, 2)
    }
    outputs = {path: of.affine() for path, of in errors["fit"].items()}
    left = {
        split: {"reused": drifts[split].left(reused)}
        | {path: of.left(outputs[path]) for path, of in errors[split].items()}
        for split in SPLITS
    }
    return cached_section(problem, site, begins, reused, outputs), left
