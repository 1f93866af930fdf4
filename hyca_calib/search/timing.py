"""Seconds of a plan's actions, as its trace measured them."""

from collections.abc import Mapping
from dataclasses import asdict

from hyca_calib.trace.store import Trace
from hyca_runtime.network_plan import NetworkPlan
from hyca_runtime.plan_facts import Timing
from hyca_runtime.schedule import DEFAULT, Action


def timing_of(section: NetworkPlan, trace: Trace, step_shares: Mapping[str, float]) -> Timing | None:
    """How long the steps of a section take; None unless all of its actions were timed.

    What a policy's probe takes, or several points that are forecast together, is not in a trace.

    Args:
        step_shares: see `KnownVariants`.
    """
    seconds = [_seconds(section, action, trace, step_shares) for action in section.schedule.palette]
    known = [of_action for of_action in seconds if of_action is not None]
    if section.probes or len(known) < len(seconds) or trace.cost.timed_on is None:
        return None
    return Timing(**asdict(trace.cost.timed_on), seconds=tuple(known))


def _seconds(section: NetworkPlan, action: Action, trace: Trace, step_shares: Mapping[str, float]) -> float | None:
    share = 1.0 if action.variant == DEFAULT else step_shares.get(action.variant)
    if action.computes:
        return None if share is None else share * trace.cost.full_seconds
    if action.variant != DEFAULT:
        return None
    places = [section.points[name].at for name in action.forecast]
    return trace.cost_at(places[0]).predicted_seconds if len(places) == 1 and places[0] in trace.points else None
