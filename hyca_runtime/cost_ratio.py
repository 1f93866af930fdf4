"""What runs saved, by what their plans say of the cost of actions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hyca_runtime.lane import Lane
from hyca_runtime.network_plan import NetworkPlan
from hyca_runtime.schedule import COMPUTE


def cost_ratio(lanes: Sequence[Lane], costs: Callable[[NetworkPlan], Sequence[float] | None]) -> float | None:
    """What the same calls cost in full over what was spent; None where a plan does not say its costs.

    Args:
        costs: what a section says of each action of its palette; what has none, as a forecast that could not be made
            behind leading blocks of low precision, is taken for computed in full.
    """
    spent = full = 0.0
    for lane in lanes:
        section = lane.plan.section(lane.track)
        if (told := costs(section)) is None:
            return None
        cost = dict(zip(section.schedule.palette, told, strict=True))
        for state in list(lane.streams.values()):  # other threads go on meanwhile
            done = list(state.count.actions.items())
            spent += sum(count * cost.get(action, cost[COMPUTE]) for action, count in done)
            full += state.count.steps * cost[COMPUTE]
    return full / spent if spent else None
