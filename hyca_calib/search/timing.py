"""Seconds of a plan's actions, as its trace measured them."""

from dataclasses import asdict

from hyca_calib.trace.store import Trace
from hyca_runtime.network_plan import NetworkPlan
from hyca_runtime.plan_facts import Timing
from hyca_runtime.schedule import DEFAULT, Action


def timing_of(section: NetworkPlan, trace: Trace) -> Timing | None:
    """How long the steps of a section take; None unless all of its actions were timed in the trace.

    What a policy's probe takes, or several points that are forecast together, is not in a trace.
    """
    seconds = [_seconds(section, action, trace) for action in section.schedule.palette]
    known = [of_action for of_action in seconds if of_action is not None]
    if section.probes or len(known) < len(seconds) or trace.cost.timed_on is None:
        return None
    return Timing(**asdict(trace.cost.timed_on), seconds=tuple(known))


def _seconds(section: NetworkPlan, action: Action, trace: Trace) -> float | None:
    if action.variant != DEFAULT:
        return None
    if action.computes:
        return trace.cost.full_seconds
    places = [section.points[name].at for name in action.forecast]
    return trace.cost_at(places[0]).predicted_seconds if len(places) == 1 and places[0] in trace.points else None
