"""Plans for videos in chunks."""

import json
from collections.abc import Callable, Sequence
from functools import cache

from hyca_calib.commands.asked import Asked, Maker
from hyca_calib.commands.options import SearchLimits
from hyca_calib.costs.budget import Budget
from hyca_calib.pipelines.pipeline import Pipeline
from hyca_calib.records.console import say, stages
from hyca_calib.search.by_chunk import Both, search_by_chunk, shared
from hyca_calib.search.candidate import Candidate
from hyca_calib.search.kept_keys import PAST, with_keys
from hyca_calib.search.options import SearchOptions
from hyca_calib.search.packcache import kept_chunks, search_packcache
from hyca_calib.search.past_cost import told_keys
from hyca_calib.search.problem import Problem
from hyca_calib.search.sources import BEST, PACKCACHE
from hyca_calib.search.study import JOURNAL, StudyFolder
from hyca_calib.trace.folder import Where
from hyca_calib.trace.store import Trace
from hyca_runtime import Plan
from hyca_runtime.errors import BudgetError, HycaError, StudyError
from hyca_runtime.streaming.retention import RetentionSpec, retention_from_spec

Damped = Callable[[Pipeline, Problem, SearchLimits, Where], Problem]
"""Gives a problem with its damping."""
Tuned = Callable[[Problem, Sequence[Budget], SearchLimits, Where], dict[Budget, list[Candidate]]]
"""Gives candidates for every budget on one trace."""


def keys_of(limits: SearchLimits) -> tuple[RetentionSpec, ...]:
    """What plans may keep of finished chunks.

    Raises:
        StudyError: that cannot be.
    """
    return tuple(_parsed(text) for text in dict.fromkeys(limits.keys or [RetentionSpec().name]))


def _parsed(text: str) -> RetentionSpec:
    try:
        name, *settings = text.split()
        pairs = (setting.split("=") for setting in settings)
        configuration = {label: json.loads(value) for label, value in pairs}
    except ValueError as error:
        expected = "expected a name, perhaps with settings as JSON, such as 'packed budget=2 window=4'"
        raise StudyError(f"--keys {text!r}: {expected}") from error
    try:
        return retention_from_spec(RetentionSpec(name=name, configuration=configuration)).spec()
    except (ValueError, HycaError) as error:
        raise StudyError(f"--keys {text!r}: {error}") from error


def searches_keys(limits: SearchLimits) -> bool:
    """Whether what is kept is searched, too, and attention to it counts in the budget."""
    return limits.most_keys is not None or len(keys_of(limits)) > 1


def check_keys(limits: SearchLimits, recorded: Sequence[Trace], budgets: Sequence[Budget]) -> None:
    """Whether what is asked of keys can be done.

    Raises:
        StudyError: the traces are of no video in chunks, or a published recipe is to choose, or does.
        BudgetError: a budget that attention does not count in.
    """
    if limits.keys is None and limits.most_keys is None:
        return
    if any(trace.attributes.chunks is None for trace in recorded):
        told = ", ".join(map(repr, limits.keys or ()))
        option = f"--keys {told}" if told else f"--most-keys {limits.most_keys:g}"
        raise StudyError(f"{option}: the trace is of no video in chunks; leave it out")
    if limits.preset == PACKCACHE:
        raise StudyError(f"preset {PACKCACHE!r} chooses what is kept for the budget; leave --keys and --most-keys out")
    if not searches_keys(limits):
        return
    if limits.preset != BEST:
        raise StudyError(f"preset {limits.preset!r} takes one way to keep keys; give --keys once, without --most-keys")
    for budget in budgets:
        if budget.share is None or budget.measure != "flops":
            raise BudgetError(f"budget {budget.text!r}: where --keys are searched, expected one of FLOPs, such as 4x")


def kept(asked: Asked, problems: Sequence[Problem]) -> list[tuple[Problem, ...]]:
    """The problems of one clip with each way to keep keys that is asked for, see `with_keys`."""
    if not searches_keys(asked.limits):
        return [tuple(problems)]
    say(f"keys: a full run with each of {len(keys_of(asked.limits))} ways to keep them")
    return with_keys(asked.pipe, problems, keys_of(asked.limits), asked.limits.most_keys)


def by_chunk(asked: Asked, both: Both, damped: Damped, tuned: Tuned, options: SearchOptions) -> Maker:
    """The search, with sections of their own for the first chunk and for those behind it."""
    storage = asked.limits.storage or asked.folder / JOURNAL
    for budget in asked.budgets:
        shared(budget, both)

    @cache
    def ways() -> list[Both]:
        first, later = (damped(asked.pipe, problem, asked.limits, storage) for problem in both)
        return [(lead, rest) for lead, rest in kept(asked, (first, later))]

    def candidates(problem: Problem, budgets: Sequence[Budget]) -> dict[Budget, list[Candidate]]:
        return tuned(problem, budgets, asked.limits, storage)

    def make(budget: Budget, study: StudyFolder) -> Plan:
        found = ways()
        with stages(("confirm", *(("fresh",) if options.fresh else ()), "refine")) as tell:
            plan = search_by_chunk(asked.pipe, found, budget, study, options, candidates, tell)
        tell_kept(plan)
        return plan

    return make


def tell_kept(plan: Plan) -> bool:
    """What a search over keys has chosen, and what its plan costs with attention to them; whether it was one."""
    chunks, past = plan.sections[0].chunks, plan.provenance.get(PAST)
    if past and chunks is not None and chunks.keys is not None:
        cost = f"1/{past['flops_ratio']:.3g} of a full run"
        say(f"keys: '{told_keys(chunks.keys)}'; with attention to them the plan costs {cost}")
    return bool(past)


def packcache(asked: Asked) -> Maker:
    """Nothing is forecast, and a share of the keys and values of the past is kept."""
    (problem,) = asked.problems
    for budget in asked.budgets:
        kept_chunks(problem, budget)
    return lambda budget, study: search_packcache(asked.pipe, problem, budget, study)
