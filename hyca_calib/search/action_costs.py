"""What the actions of a schedule cost."""

from collections.abc import Mapping, Sequence

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


def action_bits(problem: Problem, schedule: Schedule, flops: Sequence[float]) -> tuple[float, ...] | None:
    """Bit operations of the same steps; None where nothing is known of other precisions than the network's own.

    Args:
        flops: of each action of the palette.
    """
    if problem.variants is None:
        return None
    return tuple(problem.variants.bits(each, action) for each, action in zip(flops, schedule.palette, strict=True))
