"""A search that starts from an earlier plan of the same architecture: other weights, guidance, size, steps or sampler.

How fast errors are damped, and the settings that the plan was searched with, are taken over. Its schedule is among the
first candidates; on the very steps that it was made for with its own, refined rows, too, from which refinement then
goes on. On other steps a row means something else, and all are fitted anew. Rollouts decide what is kept.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from hyca_calib.costs.budget import Budget
from hyca_calib.search.assemble import build_section
from hyca_calib.search.candidate import Candidate
from hyca_calib.search.lineage import section_for, settings_of, with_damping_of
from hyca_calib.search.problem import Problem
from hyca_calib.search.retimed import grids, is_on_grid
from hyca_calib.search.settings import Settings
from hyca_calib.search.tune import solve
from hyca_calib.trace.store import Trace
from hyca_runtime.network_plan import NetworkPlan
from hyca_runtime.plan import Plan
from hyca_runtime.schedule import Schedule
from hyca_runtime.starter.rule import learnt_steps

SLACK = 0.01
"""Share of a full step by which forecasts from more than one past may exceed a budget that counts steps."""


def started(problem: Problem, plan: Plan) -> Problem:
    """The problem with what an earlier plan tells: its damping, and on its own steps its rows."""
    section = section_for(plan, problem.trace)
    known = with_damping_of(plan, problem)
    return replace(known, earlier=section) if is_on_grid(section, problem.trace) else known


def kept_candidate(problem: Problem, plan: Plan, budget: Budget, seed: int) -> Candidate | None:
    """The earlier plan itself; None on other steps than its own, or where the budget is of more or fewer."""
    if problem.earlier is None:
        return None
    kept = Candidate(problem, replace(_settings(problem, plan), inherit=True), problem.earlier.schedule, seed)
    return kept if _spends(kept, budget) else None


def with_start(candidates: Sequence[Candidate], plan: Plan, budget: Budget, seed: int) -> tuple[list[Candidate], int]:
    """Candidates with those that an earlier plan is good for, and how many of them are rolled out before any others.

    Args:
        candidates: of a `started` problem, best first.
    """
    problem = candidates[0].problem
    settings = _settings(problem, plan)
    again = solve(problem, settings, [budget], seed)[0]
    kept = kept_candidate(problem, plan, budget, seed)
    if kept is None:
        count = len(again.schedule.computed_steps)
        first = [again.moved(_schedule(section_for(plan, problem.trace), problem.trace, count))]
    else:
        first = [kept, again.moved(kept.schedule)]
    best, *others = sorted([again, *candidates], key=lambda candidate: candidate.cost)
    return [best, *first, *others], 1 + len(first)


def _settings(problem: Problem, plan: Plan) -> Settings:
    """Those of the plan, as far as the trace allows."""
    settings = replace(settings_of(plan, section_for(plan, problem.trace)), inherit=False, in_loop=False)
    return settings if settings.sources in problem.sources else replace(settings, sources="own")


def _spends(kept: Candidate, budget: Budget) -> bool:
    """Whether it costs what a budget allows, less than one more step that does anything."""
    problem, depth = kept.problem, kept.settings.depth
    cost, steps = problem.trace.cost, problem.trace.num_steps
    light = cost.predicted_flops(depth)
    more = min([cost.full_flops, *(problem.at(point).trace.cost.predicted_flops(depth) for point in problem.partial)])
    spent = steps * cost.full_flops / (build_section(kept).flops_ratio or 1.0)
    left = budget.most_flops(cost.full_flops, light, steps) - spent
    return -SLACK * cost.full_flops <= left < more - light


def _schedule(section: NetworkPlan, trace: Trace, count: int) -> Schedule:
    """So many computed steps, that lie in a traced run as the plan's lie in its own, by the sampler's time."""
    own, theirs = grids(section, trace)
    sign = 1.0 if theirs[0] <= theirs[-1] else -1.0
    computed = list(section.schedule.computed_steps)
    places = np.interp(sign * own[computed], sign * theirs, np.arange(len(theirs))) / max(1, len(theirs) - 1)
    steps = learnt_steps(len(theirs), count, (0.0, *places[1:].tolist()))
    first = min(count, trace.attributes.first_computed)
    return Schedule.from_steps(len(theirs), (*range(first), *steps[first:]))
