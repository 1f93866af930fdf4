"""One sampler that runs side by side with others: where it is, and what its guidance branches remember."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from hyca_runtime.agreement import ALONE, Agreement
from hyca_runtime.attach.bound_point import Captured
from hyca_runtime.attach.clock import Clock
from hyca_runtime.calls import Call, CallResolver
from hyca_runtime.compiled_plan import CompiledPlan
from hyca_runtime.deciding import Remembered, decide, learn, learns
from hyca_runtime.feature import Feature, Signature
from hyca_runtime.history import Past
from hyca_runtime.moment import Stream
from hyca_runtime.policies import Evidence, Policy, Surprises
from hyca_runtime.run_tracker import RunTracker
from hyca_runtime.schedule import Action
from hyca_runtime.stacked import stacked_labels
from hyca_runtime.stream_state import PASSED, StreamState, Turn


@dataclass
class Together:
    """What a policy remembers that decides for all guidance branches of a step.

    Attributes:
        memory: see `Remembered`.
        computed: the steps before on which something was computed.
    """

    memory: Any = None
    computed: int = 0


class Lane:
    """One thread's runs of one network under one plan.

    Args:
        ranks: those that must decide as it does.
        chunk: the part of a long video that its runs are of, None for all.

    Attributes:
        streams: by guidance branch and part.
        computed, steps: steps of the present run on which something was computed, and all.
        departure: why steps were not done as the plan says, if any were not.
    """

    def __init__(self, plan: CompiledPlan, clock: Clock, ranks: Agreement = ALONE, chunk: int | None = None) -> None:
        self.plan, self.ranks = plan, ranks
        self._resolver = CallResolver(clock, [section.grid for section in plan.sections], chunk)
        self.streams: dict[tuple[str, int], StreamState] = {}
        self._together = dict[int, Together]()
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
        called = {label for branch, _ in list(self.streams) for label in stacked_labels(branch, section.held)}
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
        return tuple(sorted(step - 1 for step in list(self._computed)))

    def resolve(self, args: tuple[Any, ...], kwargs: dict[str, Any], branch: str, step: int | None) -> Call:
        """Place a call; what an earlier run remembered is forgotten when the next begins."""
        call = self._resolver.resolve(args, kwargs, branch, step)
        if call.progress == "begins":
            for memory in (self.streams, self._together, self._computed, self._partly):
                memory.clear()
            self._lacks = ""
        if call.conditioned_anew:
            held = stacked_labels(call.branch, self.plan.section(self.track).stacked)
            self.forget("what conditions it was replaced in the midst of the run", (call.branch, *held))
        return call

    def state(self, call: Call) -> StreamState:
        """What the branch of a call remembers."""
        key = (call.branch, call.part)
        if key not in self.streams:
            began = f"it began at step {self.track.position:g}" if self.track.position > 0 else PASSED
            self.streams[key] = StreamState(*key, self.plan.depths, began, self.ranks)
        return self.streams[key]

    def turns(self, call: Call, shapes: Signature) -> list[Turn]:
        """Those who are decided about in a call: its branch, or each of several that it holds."""
        section = self.plan.section(self.track)
        if section.held == section.stacked:
            return [self._turn(call, shapes)]
        return [self._turn(replace(call, branch=of), shapes) for of in stacked_labels(call.branch, section.stacked)]

    def _turn(self, call: Call, shapes: Signature) -> Turn:
        state = self.state(call)
        return Turn(call, state, state.come_to(self.track.position), state.see(shapes))

    def pasts(self, part: int) -> dict[tuple[str, str], Past]:
        """What is remembered, by point and guidance branch; calls that hold several branches are taken apart."""
        stacked, found = self.plan.section(self.track).held, dict[tuple[str, str], Past]()
        for (branch, of), state in self.streams.items():
            for i, label in enumerate(stacked_labels(branch, stacked) if of == part else ()):
                found |= {(name, label): history.past(i, stacked) for name, history in state.histories.items()}
        return found

    def computes(
        self, state: StreamState, action: Action, keeps: bool, fills_cache: bool
    ) -> Callable[[Captured], None]:
        """Count a call on which all of the network runs; returns what is told its features."""
        state.count.add(action)
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
        state.step = self.track.steps
        if all(other.step == state.step for other in together):
            for other in together:
                other.clear()

    def remember(self, state: StreamState, keeps: bool = True, fills_cache: bool = False) -> Callable[[Captured], None]:
        """What is told the features that a call captured."""
        return partial(self._remember, state, keeps, fills_cache)

    def note(self, state: StreamState, captured: Captured) -> None:
        """Keep features of a call that is not over: its forecast may weigh them."""
        for name, feature in captured.items():
            if feature is not None:
                self._push(state, name, feature, keeps=True, fills_cache=False)

    def _remember(self, state: StreamState, keeps: bool, fills_cache: bool, captured: Captured) -> None:
        """Keep features that a forecast may need."""
        features = {name: feature for name, feature in captured.items() if feature is not None}
        if len(features) < len(captured):
            state.forget("a call did not come to the plan's points; if blocks were replaced, apply it again")
            return
        if not self.track.ends or self.plan.section(self.track).is_joint:
            for name, feature in features.items():
                self._push(state, name, feature, keeps, fills_cache)
        if self.track.ends:
            self._free(state)
        state.filled_cache = fills_cache

    def _push(self, state: StreamState, name: str, feature: Feature, keeps: bool, fills_cache: bool) -> None:
        history, kept = state.histories[name], self.as_kept(state, name, feature)
        if kept is None:
            history.clear()
            return
        if state.filled_cache and not fills_cache:
            history.keep_last(feature)
        if keeps and history.push(self.track.position, kept):
            self.plan.check_feature(self.plan.section(self.track), name, feature)
            state.count.cache_bytes = max(state.count.cache_bytes, state.nbytes)

    def as_kept(self, state: StreamState, name: str, feature: Feature) -> Feature | None:
        """What is remembered of a feature: its difference to another branch's newest where the plan says so.

        None if that branch has none.
        """
        lead = self._against(state.branch, name)
        if lead is None:
            return feature
        other = self.streams.get((lead, state.part))
        newest = other.histories[name].features[:1] if other is not None else ()
        if not newest or [part.shape for part in newest[0]] != [part.shape for part in feature]:
            return None
        return Feature((mine - theirs for mine, theirs in zip(feature, newest[0], strict=True)), feature.form)

    def keeping_order(self, turns: Sequence[Turn]) -> list[int]:
        """The order in which features of parts of a call are kept: those that others are kept against first."""
        return sorted(
            range(len(turns)), key=lambda i: any(self._against(turns[i].call.branch, name) for name in self.plan.points)
        )

    def _against(self, branch: str, name: str) -> str | None:
        return self.plan.section(self.track).points[name].against.get(branch)

    def decide(self, turn: Turn, thread: int, evidence: Evidence = None, stage: Policy | None = None) -> Action:
        """What a call does, by the plan; see `deciding.decide`."""
        section, run = self.plan.section(self.track), self._remembered(turn)
        return decide(section, self.track, _stream(turn, thread), turn.previous, run, evidence, stage)

    def learns(self, turn: Turn, thread: int) -> bool:
        """Whether the plan's policy is to be told of a call that is computed."""
        section, run = self.plan.section(self.track), self._remembered(turn)
        return learns(section, self.track, _stream(turn, thread), turn.previous, run)

    def learn(self, turn: Turn, thread: int, surprises: Surprises) -> None:
        """Tell the plan's policy how far forecasts of a computed call would have been off."""
        section, run = self.plan.section(self.track), self._remembered(turn)
        learn(section, self.track, _stream(turn, thread), turn.previous, run, surprises)

    def _remembered(self, turn: Turn) -> Remembered:
        if not self.plan.section(self.track).decider.joint:
            return turn.state
        together = self._together.setdefault(turn.call.part, Together())
        together.computed = len(self._computed - {self.track.steps})
        return together

    def forget(self, cause: str, branches: Sequence[str] | None = None) -> None:
        """Forget all features of the present run, or those of some branches, for a reason."""
        for state in self.streams.values():
            if branches is None or state.branch in branches:
                state.forget(cause)

    def lacks(self, cause: str) -> None:
        """A step that the plan predicts is computed, for a reason."""
        self._lacks = self._lacks or cause


def _stream(turn: Turn, thread: int) -> Stream:
    return turn.call.branch, turn.call.part, thread
