"""How far forecasts of a call that was computed would have been off, for policies that learn from that."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from hyca_runtime.attach.bound_point import Captured, Keeper
from hyca_runtime.combine import forecast
from hyca_runtime.feature import Feature
from hyca_runtime.lane import Lane
from hyca_runtime.stream_state import Turn


def learning(lane: Lane, turn: Turn, thread: int, keep: Keeper) -> Keeper:
    """Who is told the features of a computed call: the plan's policy how far forecasts of them would have been off,
    then `keep` the features. Waits once for the device, unless there is no past.

    Args:
        thread: its number.
    """
    return partial(_learn, lane, turn, thread, keep)


def _learn(lane: Lane, turn: Turn, thread: int, keep: Keeper, captured: Captured) -> None:
    found = {name: _surprise(lane, turn, name, feature) for name, feature in captured.items() if feature is not None}
    known = {name: off for name, off in found.items() if off is not None}
    keep(captured)
    sizes, numbers = [len(off) for off in known.values()], list[float]()
    if known:
        turn.state.count.waits += 1
        device = next(iter(known.values())).device
        numbers = lane.ranks.mean(torch.cat([off.to(device) for off in known.values()])).tolist()
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    told = {name: tuple(numbers[end - len(off) : end]) for (name, off), end in zip(known.items(), ends, strict=True)}
    if told:
        turn.state.count.surprises.append((lane.track.position, told))
    lane.learn(turn, thread, told)


def _surprise(lane: Lane, turn: Turn, name: str, feature: Feature) -> Tensor | None:
    """One number for each sample, on the device; None without a past to forecast from."""
    history, kept = turn.state.histories[name], lane.as_kept(turn.state, name, feature)
    weights = lane.plan.weights(lane.track, name, turn.call.branch, history)
    if weights is None or kept is None:
        return None
    made = forecast(history, weights)
    if [part.shape for part in made] != [part.shape for part in kept]:
        return None
    return relative_error(made, kept, lane.plan.points[name].channel_axis)


def relative_error(made: Feature, feature: Feature, channel_axis: int) -> Tensor:
    """The mean absolute difference of two features over the mean absolute value of the latter, ``(sample,)``.

    The outermost axis of every part counts samples, or a multiple of them, unless it is the channel axis.
    """
    samples = math.gcd(*(len(part) if part.ndim and channel_axis % part.ndim else 1 for part in feature))
    device = feature[0].device

    def total(parts: list[Tensor]) -> Tensor:
        return torch.stack([part.abs().reshape(samples, -1).sum(1).to(device) for part in parts]).sum(0)

    off = total([one.detach().float() - other.detach().float() for one, other in zip(made, feature, strict=True)])
    return off / total([part.detach().float() for part in feature]).clamp_min(1e-12)
