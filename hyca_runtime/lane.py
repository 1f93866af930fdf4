"""One sampler that runs side by side with others: where it is, and what its guidance branches remember."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor

from hyca_runtime.attach.attachment import Captured
from hyca_runtime.attach.clock import Clock
from hyca_runtime.calls import Call, CallResolver
from hyca_runtime.compiled_plan import CompiledPlan
from hyca_runtime.feature import Feature, Signature
from hyca_runtime.finite_guard import FiniteGuard
from hyca_runtime.history import History, Past
from hyca_runtime.policies import Evidence, Policy, ProbingPolicy
from hyca_runtime.probes import ProbeMemory
from hyca_runtime.report import StreamCount
from hyca_runtime.run_tracker import RunTracker
from hyca_runtime.schedule import COMPUTE, Action
from hyca_runtime.stacked import stacked_labels

PASSED = "a step of the plan passed without a call"
"""Why a branch lacks features that began with its run and forgot none."""


class StreamState:
    """What one guidance branch remembers of the present run.

    Attributes:
        histories: the features of each point, by its name.
        previous: the position of its latest call, -1 before the first.
        step: the number of the run's step at its latest call.
        probes: what its leading blocks made, where a policy looks at that.
        memory: what the plan's policy remembers, None before it was asked.
        cause: why its history is shorter than the plan wants, if it is.
        stacked: whether its calls hold as many branches as the plan says.
        filled_cache: whether its latest computed call also filled a cache of keys and values. Such a call may
            have more tokens than the next, before theirs.
    """

    def __init__(self, depths: Mapping[str, int], cause: str) -> None:
        self.histories = {name: History(depth) for name, depth in depths.items()}
        self.count = StreamCount()
        self.guard = FiniteGuard()
        self.previous = -1.0
        self.step = 0
        self.cause = cause
        self.memory: Any = None
        self.probes = ProbeMemory()
        self.stacked = True
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
        self.clear()
        self.guard.forget()
        self.cause = cause

    def measure(self, policy: Policy, probe: Tensor, added: Tensor) -> Evidence:
        """What a policy that probes says of a probe, and of what it added to its input; waits for the device."""
        if not isinstance(policy, ProbingPolicy):
            return None
        self.count.waits += 1
        return self.probes.measure(policy, probe, added, self.previous)

    @property
    def computed(self) -> int:
        """Calls of the run on which all of the network ran."""
        return self.count.computed

    @property
    def nbytes(self) -> int:
        return sum(history.nbytes for history in self.histories.values()) + self.probes.nbytes

    def clear(self) -> None:
        """Give the memory of all features back."""
        for history in self.histories.values():
            history.clear()
        self.probes.clear()


class Lane:
    """One thread's runs of one network under one plan.

    Attributes:
        streams: by guidance branch and part.
        computed, steps: steps of the present run on which something was computed, and all.
        departure: why steps were not done as the plan says, if any were not.
    """

    def __init__(self, plan: CompiledPlan, clock: Clock) -> None:
        self.plan = plan
        self._resolver = CallResolver(clock, [section.grid for section in plan.sections])
        self.streams: dict[tuple[str, int], StreamState] = {}
        self._computed, self._partly = set[int](), set[int]()
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
    def absent(self) -> frozenset[str]:
        """Guidance branches that the plan names and the run has not called."""
        if not self.streams:
            return frozenset()
        section = self.plan.section(self.track)
        called = {label for branch, _ in self.streams for label in stacked_labels(branch, section.stacked)}
        return section.branches - called

    @property
    def computed(self) -> int:
        return len(self._computed)

    @property
    def partly(self) -> int:
        """Steps on which nothing was computed in full, but something in part."""
        return len(self._partly - self._computed)

    @property
    def computed_at(self) -> tuple[int, ...]:
        """The steps of the run, counted from 0, on which something was computed."""
        return tuple(sorted(step - 1 for step in self._computed))

    def resolve(self, args: tuple[Any, ...], kwargs: dict[str, Any], branch: str, step: int | None) -> Call:
        """Place a call; what an earlier run remembered is forgotten when the next begins."""
        call = self._resolver.resolve(args, kwargs, branch, step)
        if call.progress == "begins":
            self.streams.clear()
            self._computed.clear()
            self._partly.clear()
            self._lacks = ""
        return call

    def state(self, call: Call) -> StreamState:
        """What the branch of a call remembers."""
        key = (call.branch, call.part)
        if key not in self.streams:
            began = f"it began at step {self.track.position:g}" if self.track.position > 0 else PASSED
            self.streams[key] = StreamState(self.plan.depths, began)
        self.streams[key].step = self.track.steps
        return self.streams[key]

    def pasts(self, name: str, part: int) -> dict[str, Past]:
        """What all guidance branches remember of a point, by branch; calls that hold several are taken apart."""
        stacked, found = self.plan.section(self.track).stacked, dict[str, Past]()
        for (branch, of), state in self.streams.items():
            if of == part:
                labels = stacked_labels(branch, stacked)
                found |= {label: state.histories[name].past(i, stacked) for i, label in enumerate(labels)}
        return found

    def computes(self, state: StreamState, keeps: bool, fills_cache: bool) -> Callable[[Captured], None]:
        """Count a call on which all of the network runs; returns what is told its features."""
        state.count.add(COMPUTE)
        self._computed.add(self.track.steps)
        return self.remember(state, keeps, fills_cache)

    def predicts(self, state: StreamState, action: Action, flops: int) -> None:
        """Count a call on which something is forecast."""
        state.count.add(action)
        state.count.forecast_flops += flops
        if not any(self.plan.points[name].skips_loop for name in action.forecast):
            self._partly.add(self.track.steps)
        if self.track.ends:
            self._free(state)

    def _free(self, state: StreamState) -> None:
        """Give the memory of a run's features back on its last step, once no branch there may weigh them."""
        together = list(self.streams.values()) if self.plan.section(self.track).is_joint else [state]
        if all(other.step == state.step for other in together):
            for other in together:
                other.clear()

    def remember(self, state: StreamState, keeps: bool = True, fills_cache: bool = False) -> Callable[[Captured], None]:
        """What is told the features that a call captured."""
        return partial(self._remember, state, keeps, fills_cache)

    def _remember(self, state: StreamState, keeps: bool, fills_cache: bool, captured: Captured) -> None:
        """Keep features that a forecast may need."""
        features = {name: feature for name, feature in captured.items() if feature is not None}
        if len(features) < len(captured):
            state.clear()
            return
        if not self.track.ends or self.plan.section(self.track).is_joint:
            for name, feature in features.items():
                self._push(state, name, feature, keeps, fills_cache)
        if self.track.ends:
            self._free(state)
        state.filled_cache = fills_cache

    def _push(self, state: StreamState, name: str, feature: Feature, keeps: bool, fills_cache: bool) -> None:
        history = state.histories[name]
        if state.filled_cache and not fills_cache:
            history.keep_last(feature)
        if keeps and history.push(self.track.position, feature):
            self.plan.check_feature(self.plan.section(self.track), name, feature)
            state.count.cache_bytes = max(state.count.cache_bytes, state.nbytes)

    def lacks(self, cause: str) -> None:
        """A step that the plan predicts is computed, for a reason."""
        self._lacks = self._lacks or cause


def flops_ratio(lanes: Sequence[Lane]) -> float | None:
    """FLOPs of the same calls in full over those that were spent; None where a plan does not say its costs."""
    spent = full = 0.0
    for lane in lanes:
        section = lane.plan.section(lane.track)
        if section.action_flops is None:
            return None
        cost = dict(zip(section.schedule.palette, section.action_flops, strict=True))
        for state in lane.streams.values():
            spent += sum(count * cost[action] for action, count in state.count.actions.items())
            full += state.count.steps * cost[COMPUTE]
    return full / spent if spent else None
