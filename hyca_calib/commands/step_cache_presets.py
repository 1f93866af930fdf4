"""Presets that decide in each run."""

from functools import cache

from hyca_calib.commands.asked import Asked, Maker
from hyca_calib.costs.budget import Budget
from hyca_calib.records.console import say, stage, stages
from hyca_calib.search.options import Refinement
from hyca_calib.search.step_caches.dbcache import DBCache, FirstBlockCache
from hyca_calib.search.step_caches.dicache import DiCache
from hyca_calib.search.step_caches.fitted_search import search_fitted
from hyca_calib.search.step_caches.fitted_taps import traced_rules
from hyca_calib.search.step_caches.flowcache import FlowCache
from hyca_calib.search.step_caches.h2cache import H2Cache
from hyca_calib.search.step_caches.magcache import MagCache
from hyca_calib.search.step_caches.mixcache import MixCache
from hyca_calib.search.step_caches.rule import Rule
from hyca_calib.search.step_caches.seacache import SeaCache
from hyca_calib.search.step_caches.search import check_reach, search_threshold
from hyca_calib.search.step_caches.stack import Stack, measure_stack
from hyca_calib.search.step_caches.teacache import TeaCache
from hyca_calib.search.study import StudyFolder
from hyca_runtime import Plan
from hyca_runtime.attach.points import find_transformer
from hyca_runtime.errors import AttachError


def step_cache(asked: Asked, *rules: Rule) -> Maker:
    """Thresholds for budgets; the network is measured, and what a rule must know of it fitted, once.

    Args:
        rules: of which each budget takes the best.
    """
    (problem,), limits = asked.problems, asked.limits
    possible = traced_rules(problem, rules) if limits.fitted else rules
    if less := len(rules) - len(possible):
        say(f"{less} of {len(rules)} settings of {limits.preset} are left out: the trace is not of their points")
    try:
        measured = [measure_stack(asked.pipe, problem, rule) for rule in possible]
    except AttachError as error:
        raise AttachError(
            f"--preset {limits.preset} decides by what comes before the blocks it reuses: {error}"
        ) from error
    for budget in asked.budgets:
        check_reach(problem, budget, measured)

    @cache
    def fitted() -> list[tuple[Rule, Stack]]:
        with stage("calibrate") as tell:

            def told(share: float) -> None:
                tell(share, "; ".join(rules[0].notes))

            found = [(rule.fitted(asked.pipe, problem, asked.folder, told), stack) for rule, stack in measured]
            told(1.0)
            return found

    def make(budget: Budget, study: StudyFolder) -> Plan:
        known = fitted()
        if limits.fitted:
            refinement = Refinement(limits.refine, limits.iterations)
            with stages(("threshold", "refine")) as tell:
                return search_fitted(asked.pipe, problem, budget, study, known, refinement, limits.seed, tell)
        with stage("threshold") as threshold:
            plan = search_threshold(asked.pipe, problem, budget, study, known, threshold, asked.folder)
            threshold(1.0)
            return plan

    return make


def dicache(asked: Asked) -> Maker:
    """With the settings of its release for the class of network."""
    return step_cache(asked, DiCache.released(asked.problems[0].trace.attributes.model.transformer))


def dbcache(asked: Asked) -> Maker:
    """With front blocks as released, or fewer of a small network."""
    network = find_transformer(asked.pipe, asked.problems[0].trace.attributes.model.component)
    return step_cache(asked, DBCache.released(network, asked.limits.order))


def firstblockcache(asked: Asked) -> Maker:
    """As released."""
    return step_cache(asked, FirstBlockCache())


def h2cache(asked: Asked) -> Maker:
    """With every split that suits the network."""
    network = find_transformer(asked.pipe, asked.problems[0].trace.attributes.model.component)
    return step_cache(asked, *H2Cache.released(network))


def mixcache(asked: Asked) -> Maker:
    """With every granularity that the network has, or fewer for budgets that want them."""
    (problem,) = asked.problems
    network = find_transformer(asked.pipe, problem.trace.attributes.model.component)
    return step_cache(asked, *MixCache.released(network, problem))


def magcache(asked: Asked) -> Maker:
    """As released."""
    return step_cache(asked, MagCache())


def seacache(asked: Asked) -> Maker:
    """As released."""
    return step_cache(asked, SeaCache())


def teacache(asked: Asked) -> Maker:
    """As released."""
    return step_cache(asked, TeaCache())


def flowcache(asked: Asked) -> Maker:
    """With every form of reuse at the points of the trace."""
    (problem,) = asked.problems
    return step_cache(asked, *FlowCache.released(problem))
