"""What ``hyca search --preset`` offers: a row for each, the work is in `hyca_calib.search`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

from hyca_calib.commands import step_cache_presets as step_caches
from hyca_calib.commands.asked import Asked, Maker
from hyca_calib.commands.chunk_presets import by_chunk, kept, packcache, tell_kept
from hyca_calib.commands.few_steps import tell_gained, tell_spent
from hyca_calib.commands.options import SearchLimits
from hyca_calib.commands.quantised_presets import cachequant, quantcache, with_variants
from hyca_calib.commands.starting import begun, still_held
from hyca_calib.costs.budget import Budget
from hyca_calib.pipelines.pipeline import Pipeline
from hyca_calib.records.console import stage, stages
from hyca_calib.search.by_chunk import parted
from hyca_calib.search.candidate import Candidate
from hyca_calib.search.error_damping import with_damping
from hyca_calib.search.learning_to_cache import rule as gated
from hyca_calib.search.learning_to_cache.router_file import read_router, router_digest
from hyca_calib.search.learning_to_cache.search import (
    routed_layers,
    search_learning_to_cache,
    site_of,
    write_routed,
)
from hyca_calib.search.learning_to_cache.training import Training
from hyca_calib.search.options import FEW_STEPS, Refinement, RolloutLimits, SearchOptions, Tuning
from hyca_calib.search.presets import PRESETS
from hyca_calib.search.problem import Problem
from hyca_calib.search.run import confirmed, search, search_preset
from hyca_calib.search.smaller import size_for
from hyca_calib.search.smoothcache.calibration import Changes, calibrate
from hyca_calib.search.smoothcache.rule import check_budget
from hyca_calib.search.smoothcache.schedule_file import schedule_content
from hyca_calib.search.smoothcache.search import (
    kind_layers,
    reach_of,
    scheduled_layers,
    search_smoothcache,
    write_scheduled,
)
from hyca_calib.search.sources import (
    ADAPTIVE,
    BEST,
    CACHEQUANT,
    DBCACHE,
    DICACHE,
    FIRSTBLOCKCACHE,
    FLOWCACHE,
    H2CACHE,
    LEARNING_TO_CACHE,
    MAGCACHE,
    MIXCACHE,
    PACKCACHE,
    QUANTCACHE,
    SEACACHE,
    SMOOTHCACHE,
    TEACACHE,
)
from hyca_calib.search.step_caches.adaptive_search import RESPONSES, search_adaptive
from hyca_calib.search.study import JOURNAL, StudyFolder
from hyca_calib.search.tune import tune
from hyca_calib.trace.folder import Where
from hyca_runtime import Plan
from hyca_runtime.errors import StudyError
from hyca_runtime.registry import did_you_mean

FEW_FINALISTS = 1
"""Of runs of few steps: whole ones, and other numbers of them, are tried with the share of earlier errors that the best
takes back; without, parts look better than they are."""


@dataclass(frozen=True)
class Offer:
    """One preset.

    Attributes:
        prepare: gives what makes plans; what all of them need is done once, when the first is made. Raises BudgetError
            if a budget cannot be met.
        options: of `SearchLimits`, that only some presets read, those that it does.
        read_schedule: what tells the file of ``--schedule`` from others. Raises PlanError if it cannot be read.
        computes_steps: whether its plans compute whole steps, so that a trace alone tells what a budget allows.
        chooses_point: whether it takes the best point of all that are traced, and not the first.
    """

    prepare: Callable[[Asked], Maker]
    options: tuple[str, ...] = ()
    read_schedule: Callable[[Path], Any] = schedule_content
    computes_steps: bool = True
    chooses_point: bool = False


def preset_of(limits: SearchLimits) -> Offer:
    """The preset that is asked for.

    Raises:
        StudyError: unknown, or an option is given that it does not read.
    """
    name, offer = limits.preset, OFFERS.get(limits.preset)
    if offer is None:
        raise StudyError(f"unknown preset {name!r}{did_you_mean(name, [*OFFERS])} Known: {', '.join(OFFERS)}.")
    for option in fields(SearchLimits):
        readers = [other for other, offered in OFFERS.items() if option.name in offered.options]
        if not readers or getattr(limits, option.name) == option.default:
            continue
        if name not in readers:
            raise StudyError(f"--{option.name} is for --preset {' or '.join(readers)}, got --preset {name}")
        if option.name in REFINED and "fitted" in offer.options and not limits.fitted:
            raise StudyError(
                f"--{option.name} limits what is refined, of {name} its fitted rows: add --fitted, or leave it out"
            )
    return offer


def _best(asked: Asked) -> Maker:
    """The search: candidates on statistics, for all budgets together, then rollouts and refinement."""
    if (both := parted(asked.problems)) is not None:
        return by_chunk(asked, both, _damped, _tuned, _options(asked))
    candidates = _candidates(asked)

    def make(budget: Budget, study: StudyFolder) -> Plan:
        if (plan := still_held(asked, budget, study)) is not None:
            return plan
        contenders, options = begun(asked, budget, [found[budget] for found in candidates()], _options(asked))
        with stages(("confirm", *(("fresh",) if options.fresh else ()), "refine")) as tell:
            plan = search(asked.pipe, contenders, budget, study, options, tell)
        if not tell_kept(plan):
            tell_spent(plan, budget, contenders[0][0].problem.trace.cost)
        tell_gained(plan)
        return plan

    return make


def _adaptive(asked: Asked) -> Maker:
    """The same, whose schedule then moves by sample."""
    options, candidates = replace(_options(asked), in_loop=False), _candidates(asked)  # its rows are fitted anew

    def make(budget: Budget, study: StudyFolder) -> Plan:
        contenders = [found[budget] for found in candidates()]
        with stages(("confirm", "threshold", "refine")) as tell:
            winner = confirmed(asked.pipe, contenders, budget, study, options, tell)
            tell("confirm", 1.0, "")
            tried = RESPONSES if asked.limits.response is None else (asked.limits.response,)
            return search_adaptive(asked.pipe, winner, tried, budget, study, options.refinement, options.seed, tell)

    return make


def _options(asked: Asked) -> SearchOptions:
    limits, batch = asked.limits, asked.effort.batch if asked.effort else Refinement.batch
    few = any(problem.partial and problem.trace.num_steps <= FEW_STEPS for problem in asked.problems)
    finalists = FEW_FINALISTS if few else RolloutLimits.finalists
    size = tuple(size_for(asked.pipe, limits.refine_at).items())
    return SearchOptions(
        RolloutLimits(limits.confirm, finalists, limits.rollouts, limits.workers),
        refinement=Refinement(limits.refine, limits.iterations, batch, size=size),
        seed=limits.seed,
        storage=limits.storage,
        fresh=limits.fresh,
        shared=asked.folder,
    )


def _candidates(asked: Asked) -> Callable[[], list[dict[Budget, list[Candidate]]]]:
    """Candidates on statistics, of each trace; found when they are first asked for."""
    limits = asked.limits

    @cache
    def candidates() -> list[dict[Budget, list[Candidate]]]:
        storage = limits.storage or asked.folder / JOURNAL
        damped = [_damped(asked.pipe, problem, limits, storage) for problem in asked.problems]
        if limits.precision is not None:
            damped = [with_variants(asked.pipe, each, limits, asked.folder, asked.budgets) for each in damped]
        ways = [problem for problems in kept(asked, damped) for problem in problems]
        return [_tuned(problem, asked.budgets, limits, storage) for problem in ways]

    return candidates


def _damped(pipe: Pipeline, problem: Problem, limits: SearchLimits, storage: Where) -> Problem:
    """The problem with its damping, from real runs."""
    if not limits.probes:
        return problem
    with stage("probe") as tell:
        tell(0.0)
        found = with_damping(pipe, problem, storage, limits.probes, tell)
        tell(1.0, f"{problem.trace.point}: {100 * found.damping[1]:.0f} % of an early error is left")
    return found


def _tuned(
    problem: Problem, budgets: Sequence[Budget], limits: SearchLimits, storage: Where
) -> dict[Budget, list[Candidate]]:
    """Candidates for every budget on one trace, from one Optuna study."""
    point, news = problem.trace.point, ""
    with stage("tune") as tell:
        tell(0.0)

        def tried(_: int, cost: float) -> None:
            nonlocal news
            news = f"{point}: cost {cost:.3e}"

        tuning = Tuning(limits.trials, limits.timeout, limits.groups, limits.taps)
        found = tune(problem, budgets, tuning, storage, limits.seed, tried, lambda share: tell(share, news))
        tell(1.0, f"{point}: {len(found[budgets[0]])} schedules")
    return found


def _closed_form(asked: Asked) -> Maker:
    """Fixed intervals and closed forms."""
    pipe, problems, limits = asked.pipe, asked.problems, asked.limits
    return lambda budget, study: search_preset(pipe, problems, budget, study, limits.preset, limits.multistep)


def _smoothcache(asked: Asked) -> Maker:
    """Thresholds for budgets, or a schedule that was made elsewhere."""
    (problem,), limits, pipe = asked.problems, asked.limits, asked.pipe
    if limits.schedule is not None:
        layers, runs = scheduled_layers(pipe, problem, limits.schedule)
        told = limits.schedule.name
        return lambda budget, study: write_scheduled(pipe, problem, budget, study, layers, runs, {"schedule": told})
    reach = reach_of(problem, limits.lookahead)
    layers = kind_layers(pipe, problem)
    for budget in asked.budgets:
        check_budget(budget, layers, reach)

    @cache
    def changes() -> Changes:
        with stage("calibrate") as tell:
            return calibrate(pipe, problem, layers.points, reach.lookahead, asked.folder, tell)

    return lambda budget, study: search_smoothcache(pipe, problem, budget, study, layers, changes(), reach)


def _learning_to_cache(asked: Asked) -> Maker:
    """Routers trained for budgets, or one that was released."""
    (problem,), limits, pipe = asked.problems, asked.limits, asked.pipe
    if limits.schedule is not None and limits.free:
        raise StudyError("--free trains a router for any step, one of the release has its own: leave out --schedule")
    if limits.schedule is None and limits.threshold != SearchLimits.threshold:
        raise StudyError("--threshold is for a released router, see --schedule; under a --budget it is found")
    layers = routed_layers(pipe, problem)
    site = site_of(problem, layers, limits.free)
    if limits.schedule is not None:
        runs = gated.runs_of(read_router(limits.schedule, site), limits.threshold, site)
        told = {"router": limits.schedule.name, "threshold": limits.threshold}
        return lambda budget, study: write_routed(pipe, problem, budget, study, layers, runs, told)
    for budget in asked.budgets:
        gated.check_budget(budget, site)

    def make(budget: Budget, study: StudyFolder) -> Plan:
        limited = Refinement(limits.refine, limits.iterations)
        training = Training(pipe, problem, layers, site, budget, limited, limits.seed)
        with stage("train") as tell:
            return search_learning_to_cache(training, study, lambda share, loss: tell(share, f"loss {loss:.3e}"))

    return make


REFINED = ("refine", "iterations", "effort")
"""Options that limit what is learnt by gradient."""
SEARCHED = ("trials", "timeout", "confirm", "probes", "rollouts", "groups", "taps", *REFINED)
"""Options that say how hard a plan is searched."""
FITTED = ("fitted", *REFINED)
"""Options of step caches whose rows may be fitted."""

OFFERS: dict[str, Offer] = {
    BEST: Offer(_best, ("palette", "precision", "roundings", "fresh", "refine_at", *SEARCHED), chooses_point=True),
    ADAPTIVE: Offer(_adaptive, ("response", *SEARCHED)),
    **{name: Offer(_closed_form, ("multistep",), chooses_point=True) for name in PRESETS},
    SMOOTHCACHE: Offer(_smoothcache, ("lookahead", "schedule"), computes_steps=False),
    DICACHE: Offer(step_caches.dicache, FITTED, computes_steps=False),
    SEACACHE: Offer(step_caches.seacache, FITTED, computes_steps=False),
    TEACACHE: Offer(step_caches.teacache, FITTED, computes_steps=False),
    H2CACHE: Offer(step_caches.h2cache, FITTED, computes_steps=False),
    DBCACHE: Offer(step_caches.dbcache, ("order", *FITTED), computes_steps=False),
    FIRSTBLOCKCACHE: Offer(step_caches.firstblockcache, FITTED, computes_steps=False),
    FLOWCACHE: Offer(step_caches.flowcache, computes_steps=False),
    PACKCACHE: Offer(packcache, computes_steps=False),
    MAGCACHE: Offer(step_caches.magcache, FITTED, computes_steps=False),
    MIXCACHE: Offer(step_caches.mixcache, FITTED, computes_steps=False),
    LEARNING_TO_CACHE: Offer(_learning_to_cache, ("schedule", "threshold", "free", *REFINED), router_digest, False),
    CACHEQUANT: Offer(cachequant, ("precision",), computes_steps=False),
    QUANTCACHE: Offer(quantcache, ("precision",), computes_steps=False),
}
"""By name; `hyca_calib.search.sources` says where each is from."""
