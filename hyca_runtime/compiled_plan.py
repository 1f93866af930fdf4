"""What one plan asks of one network: when to predict, and with which weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from hyca_runtime.adaptive import adaptive_groups
from hyca_runtime.combine import split_weights
from hyca_runtime.errors import PlanError, PlanMismatchError
from hyca_runtime.feature import Feature, widths
from hyca_runtime.history import History
from hyca_runtime.moment import Moment, Stream
from hyca_runtime.network_plan import NetworkPlan
from hyca_runtime.policies.base import Policy
from hyca_runtime.policies.scheduled import Scheduled
from hyca_runtime.run_tracker import RunTracker
from hyca_runtime.schedule import Schedule

OnMismatch = Literal["compute", "adapt", "error"]
MakePolicy = Callable[[Schedule], Policy]

MAX_ROWS = 4096
"""Rows of weights kept on the device; a plan needs one for each predicted step and shape."""


class CompiledPlan:
    """The sections of a plan for one network, ready for use.

    Args:
        name: of the plan, for messages.
        sections: one for each time grid.
        on_mismatch: what runs on other grids do.
        policy: makes the policy of each section.

    Raises:
        PlanError: there is no such way with runs on other grids.
    """

    def __init__(
        self, name: str, sections: Sequence[NetworkPlan], on_mismatch: OnMismatch, policy: MakePolicy = Scheduled
    ) -> None:
        if on_mismatch not in get_args(OnMismatch):
            raise PlanError(f"on_mismatch: expected one of {', '.join(get_args(OnMismatch))}, got {on_mismatch!r}")
        self.name, self.sections, self.on_mismatch = name, tuple(sections), on_mismatch
        self.adapts = on_mismatch == "adapt"
        self.point = self.sections[0].point
        self.depth = max(max(s.depth, s.fallback_depth if self.adapts else 1) for s in self.sections)
        self._policies: dict[int, Policy] = {id(s): policy(s.schedule) for s in self.sections}
        self._adaptive = {id(s): adaptive_groups(s.solvers, s.point.channel_axis) for s in self.sections}
        self._weights: dict[tuple[Any, ...], tuple[Tensor, ...]] = {}

    def numbers_held(self) -> int | None:
        """Numbers of features held for each sample at most; None where the plan does not say."""
        sizes = [section.cost.feature_numel for section in self.sections if section.cost is not None]
        known = [size for size in sizes if size is not None]
        return self.depth * max(known) if known else None

    def follows(self, track: RunTracker) -> bool:
        """Whether a run is on the plan, or adapted to it."""
        return not track.off_grid or self.adapts

    def section(self, track: RunTracker) -> NetworkPlan:
        """The section whose grid a run is held against."""
        return self.sections[track.at]

    def predicts(self, track: RunTracker, stream: Stream, previous: float) -> bool:
        """Whether the step a run is at is to be predicted for a stream whose latest call was at `previous`."""
        if track.undecided:
            return False
        section = self.section(track)
        moment = Moment(track.run, track.position, previous, section.schedule.num_steps, *stream)
        return self._policies[id(section)].action(moment).kind == "predict"

    def makes_up(self, track: RunTracker, previous: float) -> bool:
        """Whether a step that the plan predicts is computed because its stream was not called on those before."""
        if track.off_grid or track.undecided or track.position <= previous + 1:
            return False
        return self.section(track).schedule[int(track.position)].kind == "predict"

    def weights(self, track: RunTracker, history: History) -> tuple[Tensor, ...] | None:
        """Weights of a forecast for each part, on its device; None if the history is not what they take."""
        past, buffers, section = history.positions, history.buffers, self.section(track)
        taps = None if track.off_grid else section.taps.get(int(track.position))
        exact = taps is not None and past[: len(taps.history)] == taps.history
        if not past or not (exact or self.adapts):
            return None
        used = taps.history if taps is not None and exact else past
        key = (id(section), track.position, used, tuple((buffer.device, buffer.shape) for buffer in buffers))
        found = self._weights.get(key)
        if found is None:
            rows = taps.weights if taps is not None and exact else section.weights_at(used, track.position)
            axis = section.point.channel_axis
            parts = tuple(buffer[0].shape[axis] for buffer in buffers)
            pieces = split_weights(torch.from_numpy(rows), parts, [buffer.ndim - 1 for buffer in buffers], axis)
            if len(self._weights) >= MAX_ROWS:
                self._weights.clear()
            found = tuple(piece.to(b.device) for piece, b in zip(pieces, buffers, strict=True))
            self._weights[key] = found
        return self._adapted(found, track, history) if exact and self._adaptive[id(section)] else found

    def _adapted(self, weights: tuple[Tensor, ...], track: RunTracker, history: History) -> tuple[Tensor, ...]:
        """`weights` of a step of the plan, with the rows of groups that read the features."""
        section = self.section(track)
        times = np.array([section.sampler.axis_times[int(p)] for p in history.positions[: len(weights[0])]])
        for groups in self._adaptive[id(section)]:
            weights = groups.adapt(weights, history, times, section.sampler.axis_times[int(track.position)])
        return weights

    def check_feature(self, section: NetworkPlan, feature: Feature) -> None:
        """Raises PlanMismatchError if a feature does not have the plan's channels."""
        got = sum(widths(feature, section.point.channel_axis))
        if got != section.model.num_channels:
            raise PlanMismatchError(
                f"plan {self.name!r} is for {section.model.num_channels} channels at the point '{section.point}', "
                f"the network has {got} there; trace and search this model again"
            )
