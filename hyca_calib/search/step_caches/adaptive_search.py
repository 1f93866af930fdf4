"""An adaptive plan: the schedule of a search, moved by sample, with rows for all that its runs meet."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from hyca_calib.costs.budget import Budget
from hyca_calib.search.candidate import Candidate
from hyca_calib.search.options import Refinement
from hyca_calib.search.problem import Problem
from hyca_calib.search.step_caches.decided_run import DecidedRun, decided_run
from hyca_calib.search.step_caches.fitted_search import Tell, search_fitted
from hyca_calib.search.step_caches.fitted_taps import DEPTH, RUNS, FittedTaps, statistics
from hyca_calib.search.step_caches.stack import Stack, deciding_section, measure_stack
from hyca_calib.search.step_caches.surprise import Surprise
from hyca_calib.search.study import StudyFolder
from hyca_runtime.plan import Plan

RESPONSES = (0.0, 0.2, 0.4)
"""How strongly steps move, unless told; with 0 they stay where the search put them."""


def search_adaptive(
    pipe: Any,
    winner: Candidate,
    responses: Sequence[float],
    budget: Budget,
    study: StudyFolder,
    refinement: Refinement,
    seed: int,
    tell: Tell,
) -> Plan:
    """The plan of the response that agrees best with full runs of *select*, each at the threshold for `budget`.

    Args:
        winner: whose schedule is moved.
        responses: those that are tried.
    """
    problem = Problem(winner.problem.trace)
    rule = Surprise.of(problem.trace.point, winner.schedule)
    stack = measure_stack(pipe, problem, rule)[1].weighing(DEPTH, rule)
    contenders = [(one, stack) for one in _responding(pipe, problem, rule, stack, responses)]
    return search_fitted(pipe, problem, budget, study, contenders, refinement, seed, tell)


def _responding(
    pipe: Any, problem: Problem, rule: Surprise, stack: Stack, responses: Sequence[float]
) -> Iterator[Surprise]:
    """The rule with each response, and rows from the statistics for what runs of it meet."""
    rule, runs = _met(pipe, problem, rule, stack)
    rule, runs = _met(pipe, problem, rule, stack)  # whose surprises are those of rows from the statistics
    known = rule.knowing(problem, runs)
    for response in responses:
        yield _met(pipe, problem, replace(known, response=response), stack)[0]


def _met(pipe: Any, problem: Problem, rule: Surprise, stack: Stack) -> tuple[Surprise, list[DecidedRun]]:
    """The rule with rows for what its runs met, and these runs."""
    section = deciding_section(problem, stack, rule, 1.0, [0], None)
    jobs, steps = problem.workload.of("fit")[:RUNS], problem.workload.num_steps
    runs = [decided_run(pipe, section, job, steps) for job in jobs]
    taps = FittedTaps.for_runs(statistics(problem, section), section, [run.tables for run in runs])
    return replace(rule, groups=taps.groups), runs
