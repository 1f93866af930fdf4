"""One sampler that runs side by side with others: where it is, and what its guidance branches remember."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from hyca_runtime.attach.clock import Clock
from hyca_runtime.calls import Call, CallResolver
from hyca_runtime.compiled_plan import CompiledPlan
from hyca_runtime.feature import Feature, Signature
from hyca_runtime.finite_guard import FiniteGuard
from hyca_runtime.history import History
from hyca_runtime.report import StreamCount
from hyca_runtime.run_tracker import RunTracker

PASSED = "a step of the plan passed without a call"
"""Why a branch lacks features that began with its run and forgot none."""


class StreamState:
    """What one guidance branch remembers of the present run.

    Attributes:
        previous: the position of its latest call, -1 before the first.
        cause: why its history is shorter than the plan wants, if it is.
        filled_cache: whether its latest computed call also filled a cache of keys and values. Such a call may
            have more tokens than the next, before theirs.
    """

    def __init__(self, depth: int, cause: str) -> None:
        self.history = History(depth)
        self.count = StreamCount()
        self.guard = FiniteGuard()
        self.previous = -1.0
        self.cause = cause
        self.filled_cache = False
        self._signature: Signature = ()

    def come_to(self, position: float) -> float:
        """Move to a step; returns the position of the call before, -1 at the first."""
        previous, self.previous = self.previous, position
        if 0 <= previous < position - 1:
            self.cause = PASSED
        return previous

    def see(self, shapes: Signature) -> None:
        """Forget the features if those of a call with these shapes are not comparable."""
        if self._signature and shapes != self._signature and not self.filled_cache:
            self.forget("the shapes of what it is called with changed")
        self._signature = shapes

    def forget(self, cause: str) -> None:
        self.history.clear()
        self.guard.forget()
        self.cause = cause


class Lane:
    """One thread's runs of one network under one plan.

    Attributes:
        streams: by guidance branch and part.
        computed, steps: steps of the present run on which something was computed, and all.
        departure: why steps were not done as the plan says, if any were not.
    """

    def __init__(self, plan: CompiledPlan, clock: Clock) -> None:
        self.plan = plan
        self._resolver = CallResolver(clock, [section.sampler for section in plan.sections])
        self.streams: dict[tuple[str, int], StreamState] = {}
        self._computed: set[int] = set()
        self._lacks = ""

    @property
    def departure(self) -> str:
        return self.track.off_grid or self._lacks

    @property
    def track(self) -> RunTracker:
        return self._resolver.track

    @property
    def steps(self) -> int:
        return self.track.steps if self.streams else 0

    @property
    def computed(self) -> int:
        return len(self._computed)

    def resolve(self, args: tuple[Any, ...], kwargs: dict[str, Any], branch: str, step: int | None) -> Call:
        """Place a call; what an earlier run remembered is forgotten when the next begins."""
        call = self._resolver.resolve(args, kwargs, branch, step)
        if call.progress == "begins":
            self.streams.clear()
            self._computed.clear()
            self._lacks = ""
        return call

    def state(self, call: Call) -> StreamState:
        """What the branch of a call remembers."""
        key = (call.branch, call.part)
        if key not in self.streams:
            began = f"it began at step {self.track.position:g}" if self.track.position > 0 else PASSED
            self.streams[key] = StreamState(self.plan.depth, began)
        return self.streams[key]

    def computes(self, state: StreamState, keeps: bool, fills_cache: bool) -> Callable[[Feature | None], None]:
        """Count a computed call; returns what is told its feature, which is kept if a forecast may need it."""
        state.count.computed += 1
        self._computed.add(self.track.steps)
        return partial(self._remember, state, keeps, fills_cache)

    def _remember(self, state: StreamState, keeps: bool, fills_cache: bool, feature: Feature | None) -> None:
        if feature is None or self.track.ends:
            state.history.clear()
            return
        if state.filled_cache and not fills_cache:
            state.history.keep_last(feature)
        state.filled_cache = fills_cache
        if keeps and state.history.push(self.track.position, feature):
            self.plan.check_feature(self.plan.section(self.track), feature)
            state.count.cache_bytes = max(state.count.cache_bytes, state.history.nbytes)

    def predicts(self, state: StreamState, flops: int) -> None:
        """Count a predicted call."""
        state.count.predicted += 1
        state.count.forecast_flops += flops
        if self.track.ends:
            state.history.clear()

    def lacks(self, cause: str) -> None:
        """A step that the plan predicts is computed, for a reason."""
        self._lacks = self._lacks or cause
