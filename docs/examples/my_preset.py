"""A preset in one file: a third of the computed steps come first, the others evenly; every channel by one solver.

A preset is a function from a traced model and a budget to a section of a plan. `assemble_section` gives it the trace's
fingerprints, time grid and costs; a preset of several points or with a policy calls `section_of`.
"""

from __future__ import annotations

import numpy as np

from hyca_calib.costs.budget import Budget
from hyca_calib.search.assemble import assemble_section
from hyca_calib.search.problem import Problem
from hyca_runtime.network_plan import NetworkPlan
from hyca_runtime.schedule import EVERY, FEATURE, Schedule
from hyca_runtime.solvers import Newton


def early_dense(problem: Problem, budget: Budget, order: int = 2) -> NetworkPlan:
    """Newton's extrapolation of that order, on steps that are denser in the beginning."""
    solver, steps = Newton(order), problem.trace.num_steps
    count = budget.computed_steps(problem.trace.cost, steps, solver.depth)
    leading = max(1, count // 3)
    evenly = np.linspace(leading - 1, steps, count - leading + 2)[1:-1].round().astype(int).tolist()
    schedule = Schedule.from_steps(steps, [*range(leading), *evenly])
    everything = [(np.arange(problem.trace.num_channels), solver, solver)]
    return assemble_section(problem, schedule, "sigma", {(FEATURE, EVERY): everything})
