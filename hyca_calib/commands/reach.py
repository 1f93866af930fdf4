"""Which cache points can meet budgets."""

from collections.abc import Sequence

from hyca_calib.costs.budget import Budget
from hyca_calib.records.console import say
from hyca_calib.trace.store import Trace
from hyca_runtime.errors import BudgetError


def within_reach(budgets: Sequence[Budget], recorded: Sequence[Trace]) -> list[Trace]:
    """Those that meet every budget by some of their steps computed, before any work is done; others are told.

    Raises:
        BudgetError: not even the cheapest does.
    """
    able = list[Trace]()
    for trace in sorted(recorded, key=lambda each: each.cost.predicted_flops(3)):
        try:
            for budget in budgets:
                budget.computed_steps(trace.cost, trace.num_steps, 3, trace.attributes.first_computed)
            able.append(trace)
        except BudgetError as error:
            if not able:
                raise
            say(f"{trace.point} is left out, {error}")
    return [trace for trace in recorded if trace in able]
