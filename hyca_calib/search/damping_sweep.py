"""Schedules in case the offline objective is wrong about how much of an error heals.

How fast the network takes errors back decides where a schedule spends its steps, and it is the one number that
recorded features cannot tell: it is measured on a few runs, for errors of one size, and rows that repay earlier
errors add to it. So the exact search is repeated with the measured healing raised to other powers, from 0,
nothing heals, to 2, twice as fast; a rollout of each then tells.
"""

from __future__ import annotations

from dataclasses import replace

from hyca_calib.costs.budget import Budget
from hyca_calib.search.candidate import Candidate, Settings
from hyca_calib.search.problem import Problem
from hyca_calib.search.tune import solve
from hyca_runtime.errors import BudgetError
from hyca_runtime.schedule import Schedule

__all__ = ["hedged"]

POWERS = (1.0, 1.5, 0.5, 2.0, 1.25, 0.75, 0.0)
STARTS = (1, 2)
REPAID = 0.5


def hedged(problem: Problem, settings: Settings, budget: Budget, seed: int) -> list[Candidate]:
    """Candidates that are best if errors heal less or more, likely ones first; without a measured healing, few."""
    repay = REPAID if settings.taps == "channel" else 0.0
    found = dict[Schedule, Candidate]()
    for power in POWERS if problem.healing else (1.0,):
        assumed = replace(problem, healing=tuple(share**power for share in problem.healing))
        for start in STARTS:
            try:
                (candidate,) = solve(assumed, replace(settings, start=start, repay=repay), [budget], seed)
            except BudgetError:  # the budget leaves no schedule that starts so
                continue
            found.setdefault(candidate.schedule, candidate)
    return list(found.values())
