"""Plans for videos in chunks."""

from collections.abc import Callable, Sequence

from hyca_calib.commands.asked import Asked, Maker
from hyca_calib.commands.options import SearchLimits
from hyca_calib.costs.budget import Budget
from hyca_calib.pipelines.pipeline import Pipeline
from hyca_calib.records.console import stages
from hyca_calib.search.by_chunk import search_by_chunk, shared
from hyca_calib.search.candidate import Candidate
from hyca_calib.search.options import SearchOptions
from hyca_calib.search.packcache import kept_chunks, search_packcache
from hyca_calib.search.problem import Problem
from hyca_calib.search.study import JOURNAL, StudyFolder
from hyca_calib.trace.folder import Where
from hyca_runtime import Plan

Damped = Callable[[Pipeline, Problem, SearchLimits, Where], Problem]
"""Gives a problem with its damping."""
Tuned = Callable[[Problem, Sequence[Budget], SearchLimits, Where], dict[Budget, list[Candidate]]]
"""Gives candidates for every budget on one trace."""


def by_chunk(
    asked: Asked, both: tuple[Problem, Problem], damped: Damped, tuned: Tuned, options: SearchOptions
) -> Maker:
    """The search, with sections of their own for the first chunk and for those behind it."""
    storage = asked.limits.storage or asked.folder / JOURNAL
    for budget in asked.budgets:
        shared(budget, both[0])

    def candidates(problem: Problem, budgets: Sequence[Budget]) -> dict[Budget, list[Candidate]]:
        return tuned(damped(asked.pipe, problem, asked.limits, storage), budgets, asked.limits, storage)

    def make(budget: Budget, study: StudyFolder) -> Plan:
        with stages(("confirm", *(("fresh",) if options.fresh else ()), "refine")) as tell:
            return search_by_chunk(asked.pipe, both, budget, study, options, candidates, tell)

    return make


def packcache(asked: Asked) -> Maker:
    """Nothing is forecast, and a share of the keys and values of the past is kept."""
    (problem,) = asked.problems
    for budget in asked.budgets:
        kept_chunks(problem, budget)
    return lambda budget, study: search_packcache(asked.pipe, problem, budget, study)
