"""One network that follows a plan."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from hyca_runtime.attach.attachment import Attachment
from hyca_runtime.attach.clock import Clock
from hyca_runtime.attach.compiling import outside
from hyca_runtime.combine import forecast
from hyca_runtime.compiled_plan import CompiledPlan
from hyca_runtime.errors import ClockError, ForecastWarning, PlanMismatchError, PlanMismatchWarning
from hyca_runtime.feature import Feature, Signature, signature
from hyca_runtime.finite_guard import FiniteGuard
from hyca_runtime.history import History
from hyca_runtime.moment import Stream
from hyca_runtime.report import StreamCount
from hyca_runtime.run_tracker import RunTracker

MAX_UNNAMED = 8
"""Guidance branches without a name that are remembered for one thread."""


class _StreamState:
    """What one guidance branch of one thread remembers of its current run."""

    def __init__(self, plan: CompiledPlan) -> None:
        self.plan = plan
        self.track = RunTracker(plan.sections)
        self.history = History(plan.depth)
        self.count = StreamCount()
        self.prompt: weakref.ref[Tensor] | None = None
        self.signature: Signature = ()
        self.watch = FiniteGuard()

    def begin(self) -> None:
        self.history.clear()
        self.watch.forget()
        self.count = StreamCount()

    def remember(self, feature: Feature | None) -> None:
        """Count a computed call; keep its feature if a forecast may need it."""
        self.count.computed += 1
        track = self.track
        if feature is None or track.ends or not self.plan.follows(track):
            self.history.clear()
            return
        if self.history.push(track.position, feature):
            self.plan.check_feature(track.section, feature)
            self.count.cache_bytes = max(self.count.cache_bytes, self.history.nbytes)

    def is_conditioned_on(self, prompt: Tensor) -> bool:
        return self.prompt is not None and self.prompt() is prompt

    @property
    def orphaned(self) -> bool:
        """Whether the conditioning it was last called with is gone."""
        return self.prompt is None or self.prompt() is None


class Executor:
    """Answers the calls of one network: computes it, or predicts its feature.

    Args:
        module: the network.
        plan: what is done unless a thread says otherwise.
        scheduler: of the pipeline, if known.
        complain: told why a run is not on the plan.
    """

    def __init__(
        self, module: nn.Module, plan: CompiledPlan, scheduler: Any, complain: Callable[[str, type[Warning]], None]
    ) -> None:
        self.module, self.plan = module, plan
        self._complain = complain
        self._attachment = Attachment(module, plan.point)
        self._context = self._attachment.context
        self._clock = Clock(module, scheduler, self._context)
        self._lanes: dict[int, int] = {}
        self._numbering = threading.Lock()
        self.streams: dict[Stream, _StreamState] = {}
        self._decide = outside(self._decide_on)
        self._attachment.install(self._answer)

    def saying(self, **what: Any) -> AbstractContextManager[None]:
        """Let this thread's calls inside have another step, branch, scheduler or plan; see `Context`."""
        return self._context.saying(**what)

    def memory(self, samples: int) -> int | None:
        """Bytes of features held at most for a batch; None where the plan does not say."""
        numbers = self.plan.numbers_held()
        wide = max((p.element_size() for p in self.module.parameters() if p.is_floating_point()), default=4)
        return None if numbers is None else numbers * wide * samples

    def lane(self) -> int:
        """The number of the calling thread."""
        thread = threading.get_ident()
        if thread not in self._lanes:
            with self._numbering:
                self._lanes[thread] = len(self._lanes)
        return self._lanes[thread]

    def streams_of(self, own: bool) -> list[tuple[Stream, _StreamState]]:
        """The streams of all threads, or the calling thread's."""
        lane = self.lane()
        return [(stream, state) for stream, state in list(self.streams.items()) if stream[2] == lane or not own]

    def reset(self, own: bool = False) -> None:
        """Forget every feature and every count, of all threads or the calling one."""
        for stream, _ in self.streams_of(own):
            self.streams.pop(stream, None)

    def remove(self) -> None:
        """Restore the network and release all memory."""
        self._attachment.remove()
        self.reset()

    def _answer(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        state, predicted = self._decide(args, kwargs)
        if predicted is not None:
            return self._attachment.predict(predicted, args, kwargs)
        return self._attachment.compute(args, kwargs, state.remember if state is not None else None)[0]

    def _decide_on(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[_StreamState | None, Feature | None]:
        """The stream of a call, None if it is no step of a run; and the forecast, if it is to be predicted."""
        plan = self._context.plan or self.plan
        if not isinstance(plan, CompiledPlan) or (self.module.training and torch.is_grad_enabled()):
            return None, None
        fills_cache = self._clock.fills_cache(args, kwargs)
        if fills_cache and not self._starts(plan, args, kwargs):
            return None, None
        prompt = self._clock.prompt(args, kwargs)
        stream, state = self._stream(plan, prompt)
        track = state.track
        if track.advance(self._clock, args, kwargs, prompt, self._context.step):
            state.begin()
            self._forget_ended(stream)
        shapes = signature((args, kwargs))
        if shapes != state.signature:
            state.history.clear()
            state.signature = shapes
        if not plan.follows(track):
            self._leave_plan(state)
        elif not fills_cache and plan.predicts(track, stream):
            weights = plan.weights(track, state.history)
            if weights is not None:
                return state, self._forecast(state, weights)
        return state, None

    def _forecast(self, state: _StreamState, weights: tuple[Tensor, ...]) -> Feature | None:
        """The feature; None if NaN or infinity came out, whereupon the step is computed."""
        feature = forecast(state.history, weights)
        if not state.watch.is_sound(feature):
            state.history.clear()
            state.watch.forget()
            found = f"plan {state.plan.name!r} forecast NaN or infinity at step {int(state.track.position)}"
            self._complain(f"{found}; steps are computed until it can forecast again", ForecastWarning)
            return None
        state.count.predicted += 1
        state.count.forecast_flops += sum(2 * len(w) * part.numel() for w, part in zip(weights, feature, strict=True))
        if state.track.ends:
            state.history.clear()
        return feature

    def _stream(self, plan: CompiledPlan, prompt: Tensor | None) -> tuple[Stream, _StreamState]:
        """The state a call belongs to: by the name of its guidance branch, else by its conditioning."""
        lane = self.lane()
        branch = self._context.branch
        if not branch and prompt is not None:
            branch = self._unnamed(lane, prompt)
        stream = (branch, 0, lane)
        state = self.streams.get(stream)
        if state is None or state.plan is not plan:
            state = self.streams[stream] = _StreamState(plan)
        state.prompt = weakref.ref(prompt) if prompt is not None else None
        return stream, state

    def _unnamed(self, lane: int, prompt: Tensor) -> str:
        """The label of the unnamed branch that is conditioned on `prompt`.

        A branch keeps its conditioning tensor while a pipeline runs. Where a pipeline makes it anew
        at every step, one branch can still be followed, two cannot.
        """
        streams = list(self.streams.items())
        known = {key[0]: state for key, state in streams if key[2] == lane and key[0][:1] in ("", "#")}
        for label, state in known.items():
            if state.is_conditioned_on(prompt):
                return label
        orphans = [label for label, state in known.items() if state.orphaned]
        running = [label for label in orphans if known[label].track.in_step_with(self._clock)]
        if len(running) > 1:
            raise ClockError(
                "guidance branches without a name whose conditioning changes at every step cannot be told apart; "
                "name them: with session.at(branch='cond')"
            )
        if running:
            return running[0]
        free = next(i for i in range(len(known) + 1) if _label(i) not in known)
        reused = orphans[0] if orphans else next(iter(known)) if free >= MAX_UNNAMED else None
        if reused is None:
            return _label(free)
        del self.streams[(reused, 0, lane)]
        return reused

    def _forget_ended(self, begun: Stream) -> None:
        """Drop the branches of earlier, finished runs of this thread."""
        for stream, state in list(self.streams.items()):
            if stream != begun and stream[2] == begun[2] and state.track.ends:
                self.streams.pop(stream, None)

    def _starts(self, plan: CompiledPlan, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether a call begins a run, by its timestep."""
        time, rounding = self._clock.timestep(args, kwargs)
        return any(section.sampler.is_at(0, time, rounding) for section in plan.sections)

    def _leave_plan(self, state: _StreamState) -> None:
        state.history.clear()
        plan, track = state.plan, state.track
        message = f"plan {plan.name!r} is for {track.section.schedule.num_steps} steps of its own sampler, "
        message += f"but {track.off_plan}"
        if plan.on_mismatch == "error":
            raise PlanMismatchError(f"{message}; sample as the plan says or search a plan for these steps")
        remedy = "Sample as the plan says, search a plan for these steps, or apply it with on_mismatch='adapt'"
        self._complain(f"{message}; this run is computed in full. {remedy}", PlanMismatchWarning)


def _label(number: int) -> str:
    return f"#{number}" if number else ""
