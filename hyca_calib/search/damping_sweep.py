"""Schedules in case the offline objective is wrong about how much errors are damped.

How fast the network takes errors back decides where a schedule spends its steps, and it is the one number that
recorded features cannot tell: it is measured on a few runs, for errors of one size, and rows that take back earlier
errors add to it. So the exact search is repeated with the measured damping raised to other powers, from 0,
nothing is damped, to 2, twice as fast; a rollout of each then tells.
"""

from collections.abc import Iterator
from dataclasses import replace

from hyca_calib.costs.budget import Budget
from hyca_calib.search.candidate import Candidate
from hyca_calib.search.stopwatch import Pulse, no_pulse
from hyca_calib.search.tune import solve
from hyca_runtime.errors import BudgetError
from hyca_runtime.schedule import Schedule

POWERS = (1.0, 1.5, 0.5, 2.0, 1.25, 0.75, 0.0)
STARTS = (1, 2)
FEEDBACK_SHARE = 0.5


def sweep_damping(candidate: Candidate, budget: Budget, pulse: Pulse = no_pulse) -> Iterator[Candidate]:
    """Candidates like `candidate` that are best if errors are damped less or more, likely ones first; each is searched
    when it is asked for.

    Without a measured damping they are few.
    """
    problem, repay = candidate.problem, FEEDBACK_SHARE if candidate.settings.taps == "channel" else 0.0
    found = set[Schedule]()
    for power in POWERS if problem.damping else (1.0,):
        assumed = replace(problem, damping=tuple(factor**power for factor in problem.damping))
        for start in STARTS:
            settings = replace(candidate.settings, start=start, repay=repay)
            try:
                (best,) = solve(assumed, settings, [problem.within(budget)], candidate.seed, pulse)
            except BudgetError:  # the budget leaves no schedule that starts so
                continue
            if best.schedule not in found:
                found.add(best.schedule)
                yield replace(best, problem=problem).knowing(groups=best.groups)
