"""What a call forecasts, from what its lane remembers."""

from __future__ import annotations

import torch
from torch import Tensor

from hyca_runtime.calls import Call
from hyca_runtime.combine import by_sample, forecast, joint_forecast
from hyca_runtime.feature import Feature
from hyca_runtime.forecast import Source
from hyca_runtime.lane import Lane
from hyca_runtime.schedule import Action
from hyca_runtime.stacked import stacked_labels
from hyca_runtime.stream_state import StreamState

NOT_FINITE = "forecast NaN or infinity"
NOT_STACKED = "its calls do not hold the guidance branches that the plan was made for"
NO_SOURCE = "another point or a branch that its forecast weighs does not have the features for it, of "

Made = tuple[Feature, int]
"""A feature, and the FLOPs of making it."""


def forecast_action(
    lane: Lane, state: StreamState, call: Call, action: Action, added: Tensor | None = None
) -> dict[str, Feature] | None:
    """The features of an action; None if a history is not what the plan takes, or NaN or infinity came out.

    Args:
        added: what the leading blocks added in this call, where they are looked at.
    """
    found, flops, joint = dict[str, Feature](), 0, lane.plan.section(lane.track).is_joint
    for name in action.forecast:
        made = _jointly(lane, state, call, name) if joint else _alone(lane, state, call, name, added)
        if made is None:
            return None
        found[name] = made[0]
        flops += made[1]
    if not state.guard.is_sound([part for feature in found.values() for part in feature]):
        state.forget(NOT_FINITE)
        return None
    lane.predicts(state, action, flops)
    return found


def _alone(lane: Lane, state: StreamState, call: Call, name: str, added: Tensor | None) -> Made | None:
    """A feature from the past of its own branch."""
    history = state.histories[name]
    weights = lane.plan.weights(lane.track, name, call.branch, history)
    if weights is None:
        return None
    aligned = lane.plan.aligned(lane.track, name, call.branch) if added is not None else None
    if aligned is not None and added is not None:
        weights = by_sample(weights, state.probes.weights(aligned, added))
    feature = forecast(history, weights)
    return feature, sum(2 * len(w) * part.numel() for w, part in zip(weights, feature, strict=True))


def _jointly(lane: Lane, state: StreamState, call: Call, name: str) -> Made | None:
    """A feature from all that the plan weighs for it, branch by branch of those that the call holds."""
    if not state.stacked:
        state.cause = NOT_STACKED
        return None
    section, pasts, parts, flops = lane.plan.section(lane.track), lane.pasts(call.part), list[Feature](), 0
    for label in stacked_labels(call.branch, section.held):
        own = pasts[name, label]
        weights = lane.plan.weights(lane.track, name, label, own)
        if weights is None:
            return None
        beside = lane.plan.weights_beside(lane.track, name, label, pasts)
        if beside is None:
            lead = [repr(of) for of in [section.points[name].against.get(label)] if of is not None]
            weighed = {_told(s) for s, _ in section.sources(name, label) if not s.is_constant}
            state.cause = NO_SOURCE + ", ".join(sorted({*lead, *weighed}))
            return None
        terms = [(own, weights), *((past, taps) for past, taps in beside if past is not None)]
        shifts = [taps for past, taps in beside if past is None]
        parts.append(joint_forecast(terms, shifts))
        flops += sum(2 * len(w) * part.numel() for _, of in terms for w, part in zip(of, parts[-1], strict=True))
    if len(parts) == 1:
        return parts[0], flops
    return Feature(map(torch.cat, zip(*parts, strict=True)), parts[0].form), flops


def _told(source: Source) -> str:
    return " at ".join(repr(name) for name in (source.branch, source.point) if name is not None)
