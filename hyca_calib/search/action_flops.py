"""What the actions of a schedule cost."""

from collections.abc import Mapping

from hyca_calib.search.problem import Problem
from hyca_runtime.schedule import Schedule


def action_flops(problem: Problem, schedule: Schedule, taps: Mapping[str, int]) -> tuple[float, ...]:
    """FLOPs of a step with each action of the palette.

    Args:
        taps: features that a forecast weighs, by the name of the point.
    """
    costs = {name: problem.at(problem.named[name]).trace.cost for name in taps}
    return tuple(
        problem.trace.cost.full_flops
        if action.computes
        else sum(costs[name].predicted_flops(taps[name]) for name in action.forecast)
        for action in schedule.palette
    )
