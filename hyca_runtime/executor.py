"""One network that follows a plan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from torch import nn

from hyca_runtime.agreement import ALONE, Agreement
from hyca_runtime.attach.arrival import Arrival
from hyca_runtime.attach.attachment import Attachment
from hyca_runtime.attach.bound_point import Keeper
from hyca_runtime.attach.clock import Clock
from hyca_runtime.attach.compiling import around, outside
from hyca_runtime.attach.points import find_components
from hyca_runtime.chunk_calls import calls_of
from hyca_runtime.compiled_plan import CompiledPlan
from hyca_runtime.complaints import Complain, tell_of_leaving, tell_of_miss
from hyca_runtime.doing import NOTHING, Apart, Doing, Later, together
from hyca_runtime.feature import Signature, signature
from hyca_runtime.forecasting import NOT_STACKED, forecast_action
from hyca_runtime.lane import Lane
from hyca_runtime.lanes import Lanes
from hyca_runtime.on_the_way import OnTheWay, places_on_the_way
from hyca_runtime.policies import ProbingPolicy
from hyca_runtime.schedule import COMPUTE, Action
from hyca_runtime.stacked import joined, parts_of, repeats
from hyca_runtime.stream_state import Turn
from hyca_runtime.surprise import learning

REPLACED = "the pipeline has another network by now; apply the plan to it again"
FILLS = "a cache of keys and values is filled on this step or was on the one before"


class Executor:
    """Answers the calls of one network: computes it, or forecasts some of its features.

    Args:
        module: the network.
        plan: what is done unless a thread says otherwise.
        pipe: the pipeline, if known.
        complain: told why a step is not done as the plan says.
        ranks: those that must decide as it does.
    """

    def __init__(
        self, module: nn.Module, plan: CompiledPlan, pipe: Any, complain: Complain, ranks: Agreement = ALONE
    ) -> None:
        self.module, self.plan, self._ranks = module, plan, ranks
        self._complain = complain
        self._attachment = Attachment(module, plan.points, variants=plan.variants)
        self._context = self._attachment.context
        for place in (place for section in plan.sections for place in places_on_the_way(section)):
            self._attachment.late(*place)  # refused before anything is changed
        self._clock = Clock(module, pipe, self._context)
        self._lanes = Lanes(self._clock, self._context, ranks)
        deciders = [section.decider for section in plan.sections]
        self._arrival = Arrival(module, [d.looks_at for d in deciders if isinstance(d, ProbingPolicy)])
        self.chunks = calls_of(plan, self._attachment, self._clock, self._lanes, self._answer_whole)
        self._decide, self._join = outside(self._decide_on), outside(joined)
        self._ask = outside(_asked)
        around(self._do)
        self._attachment.install(self._answer)
        self.chunks.install()

    def saying(self, **what: Any) -> AbstractContextManager[None]:
        """Let this thread's calls inside have another step, branch, pipeline or plan; see `Context`."""
        return self._context.saying(**what)

    def memory(self, samples: int) -> int | None:
        """Bytes of features held at most for a batch; None where the plan does not say."""
        numbers = self.plan.numbers_held()
        wide = max((p.element_size() for p in self.module.parameters() if p.is_floating_point()), default=4)
        return None if numbers is None else numbers * wide * samples

    @property
    def variant_bytes(self) -> int:
        """Bytes of quantised weights beside the network's own."""
        return self._attachment.variants.nbytes

    def lanes_of(self, own: bool) -> list[tuple[int, Lane]]:
        """The lanes of all threads, or the calling one's, with the number of their sampler."""
        return self._lanes.of(own)

    def departure(self, own: bool) -> str:
        """Why steps were not done as the plan says, or none will be; "" if all were."""
        components = find_components(self._clock.pipe).values()
        if components and not any(self.module in set(component.modules()) for component in components):
            return REPLACED
        return next((lane.departure for _, lane in self.lanes_of(own) if lane.departure), "")

    def reset(self, own: bool = False) -> None:
        """Forget every feature and every count, of all threads or the calling one."""
        self._lanes.drop(own)
        self.chunks.drop(own)

    def forget(self, cause: str) -> None:
        """Forget the features of the calling lane, in the midst of a run."""
        for _, lane in self.lanes_of(own=True):
            lane.forget(cause)

    def remove(self) -> None:
        """Restore the network and release all memory."""
        self._attachment.remove()
        self.chunks.remove()
        self.reset()

    def _answer(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self.chunks.takes(args, kwargs) and self._follows() is not None:
            return self.chunks.answer(args, kwargs)
        return self._answer_whole(args, kwargs)

    def _answer_whole(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        doing = self._decide(args, kwargs)
        if not isinstance(doing, list):
            return self._do(args, kwargs, doing)
        outputs = {number: self._do(*part, self._ask(done)) for number, part, done in doing}
        return self._join([outputs[number] for number in range(len(outputs))])

    def _do(self, args: tuple[Any, ...], kwargs: dict[str, Any], doing: Doing | Later) -> Any:
        if isinstance(doing, Later):
            return self._attachment.run_late(args, kwargs, *doing)
        return self._attachment.run(args, kwargs, *doing)[0]

    def _follows(self) -> CompiledPlan | None:
        """The plan that the calling thread's calls follow, if any."""
        plan = self._context.plan or self.plan
        trains = self.module.training and torch.is_grad_enabled()
        return plan if isinstance(plan, CompiledPlan) and not trains else None

    def _decide_on(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Doing | Later | Apart:
        """What a call computes, and what is forecast."""
        if (plan := self._follows()) is None:
            return NOTHING
        fills_cache = self._clock.fills_cache(args, kwargs)
        if fills_cache and not self._starts(plan, args, kwargs):
            return NOTHING
        lane = self._lanes.at(plan)
        call = lane.resolve(args, kwargs, self._context.branch, self._context.step)
        if call.progress == "begins":
            self._lanes.begin()
        self.chunks.enter(lane, call)
        turns, section = lane.turns(call, self._shapes(args, kwargs)), plan.section(lane.track)
        if section.stacked > 1 and turns[0].anew:
            same = self._ranks.everywhere(repeats(args, kwargs, section.stacked))
            stacked = bool(same)  # waits for the device, once a run
            for turn in turns:
                turn.state.stacked = stacked
        fills = fills_cache or turns[0].state.filled_cache
        if not plan.follows(lane.track):
            for turn in turns:
                turn.state.forget(lane.track.off_grid)
            tell_of_leaving(self._complain, lane)
            return self._computing(lane, turns, COMPUTE, [False] * len(turns), fills_cache)
        if plan.probes(lane.track) and not fills:
            return self._on_the_way(lane, turns[0]).probing()
        evidence = [turn.state.look(section.decider, self._arrival, args, kwargs) for turn in turns]
        actions = [lane.decide(turn, self._lanes.number(), seen) for turn, seen in zip(turns, evidence, strict=True)]
        if len(turns) == 1 and not fills:
            return self._done(lane, turns[0], actions[0])
        if fills or not turns[0].state.stacked or all(action == COMPUTE for action in actions):
            cause = FILLS if fills else NOT_STACKED
            follows = [self._is_followed(lane, *each, cause) for each in zip(turns, actions, strict=True)]
            return self._computing(lane, turns, COMPUTE, follows, fills_cache)
        done = [partial(self._done, lane, *each) for each in zip(turns, actions, strict=True)]
        return self._parted(args, kwargs, actions, done, lane.keeping_order(turns))

    def _parted(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        actions: list[Action],
        done: Sequence[Callable[[], Doing | Later]],
        order: Sequence[int],
    ) -> Doing | Later | Apart:
        """A call whose parts forecast; they run as one where all do the same."""
        if len(set(actions)) == 1:
            known = [_asked(each) for each in done]
            if (found := together(known, order)) is not None:
                return found
            done = [partial(_itself, each) for each in known]
        parts = parts_of(args, kwargs, len(done))
        first = sorted(order, key=lambda i: not actions[i].computes)  # forecasts may weigh what is computed
        return [(i, parts[i], done[i]) for i in first]

    def _done(self, lane: Lane, turn: Turn, action: Action) -> Doing | Later:
        """What a call does for one branch, or several that are remembered together."""
        plan, state = lane.plan, turn.state
        if not action.computes:
            if plan.leads(lane.track, action):
                return self._on_the_way(lane, turn).forecasting(action)
            inject = forecast_action(lane, state, turn.call, action)
            if inject is not None:
                kept = plan.kept(lane.track, action)
                return Doing(kept, inject, lane.remember(state) if kept else None, action.variant)
        follows = self._is_followed(lane, turn, action, state.cause)
        return self._computing(lane, [turn], action if action.computes else COMPUTE, [follows], fills_cache=False)

    def _is_followed(self, lane: Lane, turn: Turn, action: Action, cause: str) -> bool:
        """Whether forecasts weigh what is computed now; tells why it is, where the plan predicts."""
        if not action.computes:
            tell_of_miss(self._complain, lane, turn.call.branch, cause)
            return lane.plan.adapts
        if lane.plan.makes_up(lane.track, turn.call.branch, turn.previous):
            tell_of_miss(self._complain, lane, turn.call.branch, turn.state.cause)
        return True

    def _computing(
        self, lane: Lane, turns: list[Turn], action: Action, follows: list[bool], fills_cache: bool
    ) -> Doing:
        pairs = zip(turns, follows, strict=True)
        keepers: list[Keeper] = [lane.computes(turn.state, action, keeps, fills_cache) for turn, keeps in pairs]
        if not (fills_cache or lane.track.ends):
            told = [f and lane.learns(t, self._lanes.number()) for t, f in zip(turns, follows, strict=True)]
            asked = zip(turns, keepers, told, strict=True)
            keepers = [
                learning(lane, turn, self._lanes.number(), keep) if learns else keep for turn, keep, learns in asked
            ]
        if len(turns) > 1 and not turns[0].state.stacked:
            return NOTHING
        doings = [Doing(tuple(lane.plan.points), {}, keep, action.variant) for keep in keepers]
        return doings[0] if len(doings) == 1 else together(doings, lane.keeping_order(turns)) or NOTHING

    def _on_the_way(self, lane: Lane, turn: Turn) -> OnTheWay:
        return OnTheWay(lane, turn, self._lanes.number(), self._complain)

    def _shapes(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Signature:
        """What must stay equal from call to call; a chunk's past keys and values may grow."""
        return signature((args, kwargs) if self._context.chunk is None else self._clock.without_caches(args, kwargs))

    def _starts(self, plan: CompiledPlan, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether a call begins a run, by its timestep."""
        time, rounding = self._clock.timestep(args, kwargs).read()
        return any(section.grid.is_at(0, time, rounding) for section in plan.sections)


def _asked(done: Callable[[], Doing | Later]) -> Doing | Later:
    return done()


def _itself(doing: Doing | Later) -> Doing | Later:
    return doing
