"""Plans for lanes that compute in the same passes: who waits for all lanes waits for the one that computes."""

from collections.abc import Collection

from hyca_runtime import Plan, PlanError
from hyca_runtime.forecast import Forecast
from hyca_runtime.network_plan import NetworkPlan
from hyca_runtime.samplers import Lanes
from hyca_runtime.schedule import Schedule


def heavy_passes(lanes: Lanes, interval: int, corrections: bool = False, warmup: int = 1) -> frozenset[int]:
    """Passes, counted from 0, on which all lanes compute: while they begin and `warmup` more, then at an interval.

    Args:
        corrections: whether they compute where one is corrected, too, and on the pass after: the outputs there are
            multiplied by the way to the next correction, and so are errors of forecasts.
    """
    begun = len(lanes) + warmup
    found = {*range(begun), *range(begun - 1, lanes.num_steps, interval)}
    if corrections:
        found |= {number + after for k in range(len(lanes)) for number in lanes.corrected(k) for after in (-1, 0)}
    return frozenset(found)


def aligned_plans(plan: Plan, lanes: Lanes, passes: Collection[int]) -> tuple[Plan, ...]:
    """For each lane the plan with a schedule that computes in these passes, counted from 0, and forecasts in others.

    Groups keep their closed forms: rows that were fitted are for the plan's own steps.

    Raises:
        PlanError: the plan has several networks or points, or is for other steps.
    """
    section = plan.section
    if section.schedule.num_steps != lanes.num_steps:
        raise PlanError(f"{plan.name}: is for {section.schedule.num_steps} steps, the lanes have {lanes.num_steps}")
    return tuple(_aligned(plan, section, lanes, lane, passes) for lane in range(len(lanes)))


def _aligned(plan: Plan, section: NetworkPlan, lanes: Lanes, lane: int, passes: Collection[int]) -> Plan:
    before = lanes.starts[lane] - lane
    steps = {before + number for number in passes if lane <= number < lanes.num_steps - before}
    name = section.only
    changes = {
        "points": {name: _closed(section.points[name])},
        "schedule": Schedule.from_steps(lanes.num_steps, {0, *steps}, name),
        "policy": None,
        "action_flops": None,
        "timing": None,
        "quality": None,
        "certificate": None,
    }
    fields = {field: getattr(section, field) for field in NetworkPlan.model_fields}
    return Plan(name=f"{plan.name}, lane {lane}", sections=(NetworkPlan(**fields | changes),))


def _closed(forecast: Forecast) -> Forecast:
    groups = {
        branch: tuple(group.model_copy(update={"solver": group.closed_form, "fallback": None}) for group in of)
        for branch, of in forecast.groups.items()
    }
    return forecast.model_copy(update={"groups": groups, "sources": {}})
