"""One network that follows a plan."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn

from hyca_runtime.attach.attachment import Attachment, Keeper
from hyca_runtime.attach.clock import Clock
from hyca_runtime.attach.compiling import outside
from hyca_runtime.attach.late import Probe
from hyca_runtime.attach.points import find_components
from hyca_runtime.calls import Call
from hyca_runtime.compiled_plan import CompiledPlan
from hyca_runtime.errors import ForecastWarning, MissingHistoryWarning, PlanMismatchError, PlanMismatchWarning
from hyca_runtime.feature import Feature, signature
from hyca_runtime.forecasting import NOT_FINITE, forecast_action
from hyca_runtime.lane import Lane, StreamState
from hyca_runtime.policies import Evidence
from hyca_runtime.schedule import COMPUTE, Action
from hyca_runtime.stacked import repeats

Complain = Callable[[type[Warning], str, str], None]
"""Told a kind of warning, what it is about, and the message; each subject is warned of once."""

Doing = tuple[tuple[str, ...], dict[str, Feature], Keeper | None]
"""What a call does: points whose features are captured, features that are forecast, and who is told the captured."""


class Later(NamedTuple):
    """A call that decides on its way, after so many blocks, and who is told the feature if it is computed."""

    blocks: int
    decide: Callable[[Probe], Feature | None]
    keep: Keeper


NOTHING: Doing = (), {}, None
"""The network is computed, and nothing is remembered of it."""

REPLACED = "the pipeline has another network by now; apply the plan to it again"
FILLS = "a cache of keys and values is filled on this step or was on the one before"


class Executor:
    """Answers the calls of one network: computes it, or forecasts some of its features.

    Args:
        module: the network.
        plan: what is done unless a thread says otherwise.
        pipe: the pipeline, if known.
        complain: told why a step is not done as the plan says.
    """

    def __init__(self, module: nn.Module, plan: CompiledPlan, pipe: Any, complain: Complain) -> None:
        self.module, self.plan = module, plan
        self._complain = complain
        self._attachment = Attachment(module, plan.points)
        self._context = self._attachment.context
        for blocks in {section.probes for section in plan.sections} - {0}:
            self._attachment.late(blocks)  # refused before anything is changed
        self._clock = Clock(module, pipe, self._context)
        self._numbers: dict[int, int] = {}
        self._numbering = threading.Lock()
        self.lanes: dict[int, Lane] = {}
        self._decide = outside(self._decide_on)
        self._attachment.install(self._answer)

    def saying(self, **what: Any) -> AbstractContextManager[None]:
        """Let this thread's calls inside have another step, branch, pipeline or plan; see `Context`."""
        return self._context.saying(**what)

    def memory(self, samples: int) -> int | None:
        """Bytes of features held at most for a batch; None where the plan does not say."""
        numbers = self.plan.numbers_held()
        wide = max((p.element_size() for p in self.module.parameters() if p.is_floating_point()), default=4)
        return None if numbers is None else numbers * wide * samples

    def number(self) -> int:
        """The number of the calling thread."""
        thread = threading.get_ident()
        if thread not in self._numbers:
            with self._numbering:
                self._numbers[thread] = len(self._numbers)
        return self._numbers[thread]

    def lanes_of(self, own: bool) -> list[tuple[int, Lane]]:
        """The lanes of all threads, or the calling thread's."""
        mine = self.number()
        return [(number, lane) for number, lane in list(self.lanes.items()) if number == mine or not own]

    def departure(self, own: bool) -> str:
        """Why steps were not done as the plan says, or none will be; "" if all were."""
        components = find_components(self._clock.pipe).values()
        if components and not any(self.module in set(component.modules()) for component in components):
            return REPLACED
        return next((lane.departure for _, lane in self.lanes_of(own) if lane.departure), "")

    def reset(self, own: bool = False) -> None:
        """Forget every feature and every count, of all threads or the calling one."""
        for number, _ in self.lanes_of(own):
            self.lanes.pop(number, None)

    def remove(self) -> None:
        """Restore the network and release all memory."""
        self._attachment.remove()
        self.reset()

    def _answer(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        doing = self._decide(args, kwargs)
        if isinstance(doing, Later):
            return self._attachment.run_late(args, kwargs, *doing)
        capture, inject, keep = doing
        return self._attachment.run(args, kwargs, capture, inject, keep)[0]

    def _decide_on(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Doing | Later:
        """What a call computes, and what is forecast."""
        plan = self._context.plan or self.plan
        if not isinstance(plan, CompiledPlan) or (self.module.training and torch.is_grad_enabled()):
            return NOTHING
        fills_cache = self._clock.fills_cache(args, kwargs)
        if fills_cache and not self._starts(plan, args, kwargs):
            return NOTHING
        lane = self._lane(plan)
        call = lane.resolve(args, kwargs, self._context.branch, self._context.step)
        state, follows = lane.state(call), plan.follows(lane.track)
        previous = state.come_to(lane.track.position)
        state.see(signature((args, kwargs)))
        stacked = plan.section(lane.track).stacked
        if stacked > 1 and not state.count.steps:
            state.stacked = bool(repeats(args, kwargs, stacked))  # waits for the device, once a run
        if not follows:
            state.forget(lane.track.off_grid)
            self._leave_plan(lane)
        elif (blocks := plan.probes(lane.track)) and not (fills_cache or state.filled_cache):
            return Later(blocks, partial(self._decide_within, lane, call, state, previous), lane.remember(state))
        elif (action := self._chosen(lane, call, previous, state)) != COMPUTE:
            fills = fills_cache or state.filled_cache
            inject = None if fills else forecast_action(lane, state, call, action)
            if inject is not None:
                kept = plan.kept(lane.track, action)
                return kept, inject, lane.remember(state) if kept else None
            self._miss(lane, call, FILLS if fills else state.cause)
            follows = plan.adapts
        elif plan.makes_up(lane.track, call.branch, previous):
            self._miss(lane, call, state.cause)
        return tuple(plan.points), {}, lane.computes(state, follows, fills_cache)

    def _decide_within(
        self, lane: Lane, call: Call, state: StreamState, previous: float, probe: Probe
    ) -> Feature | None:
        """The forecast of what is behind the probe of a call, or None to compute it."""
        added = probe.reached - probe.entered
        evidence = state.measure(lane.plan.section(lane.track).decider, probe.reached, added)
        action = self._chosen(lane, call, previous, state, evidence)
        if not action.computes:
            found = forecast_action(lane, state, call, action, added)
            if found is not None:
                return found[action.forecast[0]]
            self._miss(lane, call, state.cause)
        if not lane.track.ends:
            state.probes.keep(added)
        lane.computes(state, keeps=True, fills_cache=False)
        return None

    def _chosen(self, lane: Lane, call: Call, previous: float, state: StreamState, evidence: Evidence = None) -> Action:
        stream = (call.branch, call.part, self.number())
        return lane.plan.decide(lane.track, stream, previous, state, evidence)

    def _lane(self, plan: CompiledPlan) -> Lane:
        """Where the calling thread is."""
        number = self.number()
        lane = self.lanes.get(number)
        if lane is None or lane.plan is not plan:
            lane = self.lanes[number] = Lane(plan, self._clock)
        return lane

    def _starts(self, plan: CompiledPlan, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether a call begins a run, by its timestep."""
        time, rounding = self._clock.timestep(args, kwargs).read()
        return any(section.grid.is_at(0, time, rounding) for section in plan.sections)

    def _leave_plan(self, lane: Lane) -> None:
        plan, reason = lane.plan, lane.track.off_grid
        steps = plan.section(lane.track).schedule.num_steps
        message = f"plan {plan.name!r} is for {steps} steps of its own sampler, but {reason}"
        if plan.on_mismatch == "error":
            raise PlanMismatchError(f"{message}; sample as the plan says or search a plan for these steps")
        remedy = "Sample as the plan says, search a plan for these steps, or apply it with on_mismatch='adapt'"
        self._complain(PlanMismatchWarning, reason, f"{message}; this run is computed in full. {remedy}")

    def _miss(self, lane: Lane, call: Call, cause: str) -> None:
        """A step that the plan predicts is computed."""
        plan, step = lane.plan, lane.track.position
        if cause == NOT_FINITE:
            message = f"plan {plan.name!r} {cause} at step {step:g}; steps are computed until it can forecast again"
            kind: type[Warning] = ForecastWarning
        else:
            who = f"branch {call.branch!r}" if call.branch else "the network"
            message = f"plan {plan.name!r} predicts step {step:g}, but it is computed: {who} lacks earlier features, "
            message += f"for {cause}"
            kind = MissingHistoryWarning
        if plan.on_mismatch == "error":
            raise PlanMismatchError(message)
        lane.lacks(cause)
        self._complain(kind, cause, message)
