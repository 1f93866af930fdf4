"""Presets that compute in low precision."""

from functools import cache

from hyca_calib.commands.asked import Asked, Maker
from hyca_calib.costs.budget import Budget
from hyca_calib.records.console import stages
from hyca_calib.search.cachequant.drift import calibrate_distances
from hyca_calib.search.cachequant.search import grouping_of, search_cachequant
from hyca_calib.search.cachequant.site import measure_site
from hyca_calib.search.precision.variants import parse_variants
from hyca_calib.search.smoothcache.calibration import Changes
from hyca_calib.search.study import StudyFolder
from hyca_runtime import Plan
from hyca_runtime.errors import BudgetError

INT8 = "int8"


def cachequant(asked: Asked) -> Maker:
    """Groups for budgets; the network is measured, and distances between steps, once."""
    (problem,), pipe = asked.problems, asked.pipe
    specs = parse_variants(asked.limits.precision or INT8)
    if len(specs) > 1:
        raise BudgetError(f"--precision {asked.limits.precision}: {asked.limits.preset} takes one, got {len(specs)}")
    site = measure_site(pipe, problem, specs)
    longest = max(grouping_of(problem, budget, site).lengths[-1] for budget in asked.budgets)
    ahead = min(longest, problem.trace.num_steps) - 1

    @cache
    def distances() -> Changes:
        with stages(("calibrate",)) as tell:
            return calibrate_distances(
                pipe, problem, site.layers.points, ahead, asked.folder, lambda share: tell("calibrate", share, "")
            )

    def make(budget: Budget, study: StudyFolder) -> Plan:
        known = distances()
        with stages(("correct",)) as tell:
            return search_cachequant(
                pipe, problem, budget, study, site, known, lambda share: tell("correct", share, "")
            )

    return make
