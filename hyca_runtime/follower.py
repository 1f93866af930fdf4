"""One network that follows its sections of a plan."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from hyca_runtime.attach.attachment import Attachment
from hyca_runtime.attach.clock import Clock
from hyca_runtime.attach.compiling import outside
from hyca_runtime.combine import forecast, split_weights
from hyca_runtime.errors import ClockError, PlanMismatchError
from hyca_runtime.feature import Feature, Signature, signature, widths
from hyca_runtime.history import History
from hyca_runtime.moment import Moment, Stream
from hyca_runtime.plan import Section
from hyca_runtime.policies.scheduled import Scheduled
from hyca_runtime.report import StreamCount
from hyca_runtime.track import Track

__all__ = ["Follower", "OnMismatch"]

OnMismatch = Literal["compute", "adapt", "error"]

MAX_ROWS = 4096
"""Rows of weights kept on the device; a plan needs one for each predicted step and shape."""

MAX_UNNAMED = 8
"""Guidance branches without a name that are remembered for one thread."""


class _StreamState:
    """What one guidance branch of one thread remembers of its current run."""

    def __init__(self, sections: Sequence[Section], depth: int, prompt: Tensor | None) -> None:
        self.track = Track(sections)
        self.history = History(depth)
        self.count = StreamCount()
        self.prompt = weakref.ref(prompt) if prompt is not None else None
        self.signature: Signature = ()

    def begin(self) -> None:
        self.history.clear()
        self.count = StreamCount()


class Follower:
    """Answers the calls of one network: computes it, or predicts its feature.

    Args:
        module: the network.
        sections: for its time grids.
        name: of the plan, for messages.
        scheduler: of the pipeline, if known.
        complain: told why a run is not on the plan.
    """

    def __init__(
        self,
        module: nn.Module,
        sections: Sequence[Section],
        name: str,
        on_mismatch: OnMismatch,
        scheduler: Any,
        complain: Callable[[str], None],
    ) -> None:
        self.sections = tuple(sections)
        self._name, self._on_mismatch, self._complain = name, on_mismatch, complain
        self._depth = max(s.depth for s in self.sections)
        if on_mismatch == "adapt":
            self._depth = max(self._depth, *(s.fallback_depth for s in self.sections))
        self._policies = {id(s): Scheduled(s.schedule) for s in self.sections}
        self._attachment = Attachment(module, self.sections[0].point)
        self._clock = Clock(module, scheduler)
        self._lanes: dict[int, int] = {}
        self._weights: dict[tuple[Any, ...], tuple[Tensor, ...]] = {}
        self.streams: dict[Stream, _StreamState] = {}
        self.saying = self._attachment.context.saying
        self._decide = outside(self._decide_on)
        self._remember = outside(self._remember_feature)
        self._attachment.install(self._answer)

    def reset(self) -> None:
        """Forget every feature and every count."""
        self.streams.clear()

    def remove(self) -> None:
        """Restore the network and release all memory."""
        self._attachment.remove()
        self.reset()
        self._weights.clear()

    def _answer(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        state, predicted = self._decide(args, kwargs)
        if predicted is not None:
            return self._attachment.predict(predicted, args, kwargs)
        output, feature = self._attachment.compute(args, kwargs)
        self._remember(state, feature)
        return output

    def _decide_on(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[_StreamState | None, Feature | None]:
        """The stream of a call, None if it is no step of a run; and the forecast, if it is to be predicted."""
        if torch.is_grad_enabled() and self._attachment.module.training:
            return None, None
        fills_cache = self._clock.fills_cache(args, kwargs)
        if fills_cache and not self._starts(args, kwargs):
            return None, None
        stream, state = self._stream(args, kwargs)
        track = state.track
        if track.advance(self._clock, args, kwargs, self._attachment.context.step):
            state.begin()
            self._forget_ended(stream)
        shapes = signature((args, kwargs))
        if shapes != state.signature:
            state.history.clear()
            state.signature = shapes
        if track.off_plan and self._on_mismatch != "adapt":
            self._leave_plan(state)
            return state, None
        moment = Moment(track.run, track.position, track.previous, track.section.schedule.num_steps, *stream)
        predicts = self._policies[id(track.section)].action(moment).kind == "predict"
        if not predicts or track.undecided or fills_cache:
            return state, None
        weights = self._weights_for(state)
        if weights is None:
            return state, None
        feature = forecast(state.history, weights)
        state.count.predicted += 1
        state.count.forecast_flops += sum(2 * len(w) * part.numel() for w, part in zip(weights, feature, strict=True))
        if track.ends:
            state.history.clear()
        return state, feature

    def _remember_feature(self, state: _StreamState | None, feature: Feature | None) -> None:
        """Count a computed call; keep its feature if a forecast may need it."""
        if state is None:
            return
        state.count.computed += 1
        track = state.track
        if feature is None or track.ends or (track.off_plan and self._on_mismatch != "adapt"):
            state.history.clear()
            return
        self._check_feature(track.section, feature)
        state.history.push(track.position, feature)
        state.count.cache_bytes = max(state.count.cache_bytes, state.history.nbytes)

    def _stream(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Stream, _StreamState]:
        """The state a call belongs to: by the name of its guidance branch, else by its conditioning."""
        lane = self._lanes.setdefault(threading.get_ident(), len(self._lanes))
        branch, prompt = self._attachment.context.branch, self._clock.prompt(args, kwargs)
        if not branch and prompt is not None:
            branch = self._unnamed(lane, prompt, args, kwargs)
        stream = (branch, 0, lane)
        if stream not in self.streams:
            self.streams[stream] = _StreamState(self.sections, self._depth, prompt)
        state = self.streams[stream]
        state.prompt = weakref.ref(prompt) if prompt is not None else None
        return stream, state

    def _unnamed(self, lane: int, prompt: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
        """The label of the unnamed branch that is conditioned on `prompt`.

        A branch keeps its conditioning tensor while a pipeline runs. Where a pipeline makes it anew
        at every step, one branch can still be followed, two cannot.
        """
        known = {
            key[0]: s for key, s in list(self.streams.items()) if key[2] == lane and (not key[0] or key[0][0] == "#")
        }
        for label, state in known.items():
            if state.prompt is not None and state.prompt() is prompt:
                return label
        orphans = [label for label, state in known.items() if state.prompt is None or state.prompt() is None]
        if orphans and self._starts(args, kwargs):
            return orphans[0]
        running = [label for label in orphans if not known[label].track.ends]
        if len(running) > 1:
            raise ClockError(
                "guidance branches without a name whose conditioning changes at every step cannot be told apart; "
                "name them: with session.at(branch='cond')"
            )
        if running:
            return running[0]
        free = next(i for i in range(len(known) + 1) if _label(i) not in known)
        if free < MAX_UNNAMED:
            return _label(free)
        oldest = next(iter(known))
        del self.streams[(oldest, 0, lane)]
        return oldest

    def _forget_ended(self, begun: Stream) -> None:
        """Drop the branches of earlier, finished runs of this thread."""
        for stream, state in list(self.streams.items()):
            if stream != begun and stream[2] == begun[2] and state.track.ends:
                self.streams.pop(stream, None)

    def _starts(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether a call begins a run, by its timestep."""
        time, rounding = self._clock.timestep(args, kwargs)
        return any(section.sampler.is_at(0, time, rounding) for section in self.sections)

    def _weights_for(self, state: _StreamState) -> tuple[Tensor, ...] | None:
        """Weights of the forecast, on the device; None if the history is not what it takes."""
        track, past, buffers = state.track, state.history.positions, state.history.buffers
        section = track.section
        taps = None if track.off_plan else section.taps.get(int(track.position))
        exact = taps is not None and past[: len(taps.history)] == taps.history
        if not past or not (exact or self._on_mismatch == "adapt"):
            return None
        used = taps.history if exact and taps is not None else past
        places = tuple((buffer.device, buffer.ndim, buffer.shape) for buffer in buffers)
        key = (id(section), track.position, used, places)
        if len(self._weights) > MAX_ROWS:
            self._weights.clear()
        if key not in self._weights:
            rows = taps.weights if exact and taps is not None else section.weights_at(used, track.position)
            axis = section.point.channel_axis
            parts = tuple(buffer[0].shape[axis] for buffer in buffers)
            pieces = split_weights(torch.from_numpy(rows), parts, [buffer.ndim - 1 for buffer in buffers], axis)
            self._weights[key] = tuple(piece.to(b.device) for piece, b in zip(pieces, buffers, strict=True))
        return self._weights[key]

    def _check_feature(self, section: Section, feature: Feature) -> None:
        got = widths(feature, section.point.channel_axis)
        if sum(got) != section.model.num_channels:
            raise PlanMismatchError(
                f"plan {self._name!r} is for {section.model.num_channels} channels at the point '{section.point}', "
                f"the network has {sum(got)} there; trace and search this model again"
            )

    def _leave_plan(self, state: _StreamState) -> None:
        state.history.clear()
        steps = state.track.section.schedule.num_steps
        message = f"plan {self._name!r} is for {steps} steps of its own sampler, but {state.track.off_plan}"
        if self._on_mismatch == "error":
            raise PlanMismatchError(f"{message}; sample as the plan says or search a plan for these steps")
        self._complain(message)


def _label(number: int) -> str:
    return f"#{number}" if number else ""
