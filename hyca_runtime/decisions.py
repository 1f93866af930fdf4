"""What the calls of one network compute, and what is forecast."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from hyca_runtime.agreement import Agreement
from hyca_runtime.attach.arrival import Arrival
from hyca_runtime.attach.attachment import Attachment
from hyca_runtime.attach.bound_point import Keeper
from hyca_runtime.attach.clock import Clock
from hyca_runtime.calls import Call
from hyca_runtime.compiled_plan import CompiledPlan
from hyca_runtime.complaints import Complain, tell_of_leaving, tell_of_miss
from hyca_runtime.doing import NOTHING, Apart, Doing, Later, together, weights_of
from hyca_runtime.feature import Signature, signature
from hyca_runtime.forecasting import NOT_STACKED, forecast_action
from hyca_runtime.lane import Lane
from hyca_runtime.lanes import Lanes
from hyca_runtime.on_the_way import OnTheWay
from hyca_runtime.policies import ProbingPolicy
from hyca_runtime.schedule import COMPUTE, Action
from hyca_runtime.stacked import parts_of, repeats
from hyca_runtime.stream_state import Turn
from hyca_runtime.surprise import learning

FILLS = "a cache of keys and values is filled on this step or was on the one before"


class Decisions:
    """Decides about the calls of one network.

    Args:
        plan: what most calls follow.
        complain: told why a step is not done as the plan says.
        ranks: those that must decide as it does.

    Attributes:
        listeners: told of every call that was placed.

    Raises:
        AttachError: a policy looks at an input that the network does not have.
    """

    def __init__(
        self,
        plan: CompiledPlan,
        attachment: Attachment,
        clock: Clock,
        lanes: Lanes,
        complain: Complain,
        ranks: Agreement,
    ) -> None:
        self._context, self._clock, self._lanes = attachment.context, clock, lanes
        self._complain, self._ranks = complain, ranks
        self.listeners: list[Callable[[Lane, Call], None]] = []
        self._arrival = Arrival(attachment.module, attachment.turn)
        self.check(plan)

    def check(self, plan: CompiledPlan) -> None:
        """Whether what a plan's policies look at can be shown; raises AttachError if not."""
        deciders = [section.decider for section in plan.sections]
        self._arrival.check([decider.looks_at for decider in deciders if isinstance(decider, ProbingPolicy)])

    def about(self, plan: CompiledPlan, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Doing | Later | Apart:
        """What a call computes, and what is forecast."""
        fills_cache = self._clock.fills_cache(args, kwargs)
        if fills_cache and not self._starts(plan, args, kwargs):
            return NOTHING
        lane, turns = self.placed(plan, args, kwargs)
        plan = lane.plan
        section = plan.section(lane.track)
        if section.stacked > 1 and (turns[0].anew or turns[0].previous == 0):  # samples may begin with equal noise
            same = self._ranks.everywhere(repeats(args, kwargs, section.stacked))
            stacked = bool(same)  # waits for the device, twice a run
            for turn in turns:
                turn.state.stacked = stacked
        fills = fills_cache or turns[0].state.filled_cache
        if not plan.follows(lane.track):
            self.leave(lane, turns)
            return self.computing(lane, turns, COMPUTE, [False] * len(turns), fills_cache)
        if plan.probes(lane.track) and not fills:
            return self._on_the_way(lane, turns[0]).probing()
        actions = [self.action(lane, turn, args, kwargs) for turn in turns]
        if len(turns) == 1 and not fills:
            return self.done(lane, turns[0], actions[0])
        if fills or not turns[0].state.stacked or all(action == COMPUTE for action in actions):
            cause = FILLS if fills else NOT_STACKED
            follows = [self.is_followed(lane, *each, cause) for each in zip(turns, actions, strict=True)]
            return self.computing(lane, turns, COMPUTE, follows, fills_cache)
        done = [partial(self.done, lane, *each) for each in zip(turns, actions, strict=True)]
        return self._parted(args, kwargs, actions, done, lane.keeping_order(turns))

    def placed(self, plan: CompiledPlan, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Lane, list[Turn]]:
        """Where a call is, and who is decided about in it."""
        lane = self._lanes.at(plan)
        call = lane.resolve(args, kwargs, self._context.said.branch, self._context.said.step)
        if call.progress == "begins":
            self._lanes.begin()
        for listener in self.listeners:
            listener(lane, call)
        return lane, lane.turns(call, self._shapes(args, kwargs))

    def leave(self, lane: Lane, turns: Sequence[Turn]) -> None:
        """A run does not follow its plan; see `tell_of_leaving`."""
        for turn in turns:
            turn.state.forget(lane.track.off_grid)
        tell_of_leaving(self._complain, lane)

    def action(self, lane: Lane, turn: Turn, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Action:
        """What is decided before a call begins."""
        policy = lane.plan.section(lane.track).decider
        return lane.decide(turn, self._lanes.number(), turn.state.look(policy, self._arrival, args, kwargs))

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
            known = [asked(each) for each in done]
            if (found := together(known, order)) is not None:
                return found
            done = [partial(_itself, each) for each in known]
        parts = parts_of(args, kwargs, len(done))
        first = sorted(order, key=lambda i: not actions[i].computes)  # forecasts may weigh what is computed
        return [(i, parts[i], done[i]) for i in first]

    def done(self, lane: Lane, turn: Turn, action: Action) -> Doing | Later:
        """What a call does for one branch, or several that are remembered together."""
        plan, state = lane.plan, turn.state
        if not action.computes:
            if plan.leads(lane.track, action):
                return self._on_the_way(lane, turn).forecasting(action)
            inject = forecast_action(lane, state, turn.call, action)
            if inject is not None:
                kept = plan.kept(lane.track, action)
                keep = lane.remember(state) if kept else None
                return Doing(kept, inject, keep, weights_of(action, lane.plan, lane.track))
        follows = self.is_followed(lane, turn, action, state.cause)
        return self.computing(lane, [turn], action if action.computes else COMPUTE, [follows], fills_cache=False)

    def is_followed(self, lane: Lane, turn: Turn, action: Action, cause: str) -> bool:
        """Whether forecasts weigh what is computed now; tells why it is, where the plan predicts."""
        if not action.computes:
            tell_of_miss(self._complain, lane, turn.call.branch, cause)
            return lane.plan.adapts
        if lane.plan.makes_up(lane.track, turn.call.branch, turn.previous):
            tell_of_miss(self._complain, lane, turn.call.branch, turn.state.cause)
        return True

    def computing(self, lane: Lane, turns: list[Turn], action: Action, follows: list[bool], fills_cache: bool) -> Doing:
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
        weights = weights_of(action, lane.plan, lane.track)
        doings = [Doing(tuple(lane.plan.points), {}, keep, weights) for keep in keepers]
        return doings[0] if len(doings) == 1 else together(doings, lane.keeping_order(turns)) or NOTHING

    def _on_the_way(self, lane: Lane, turn: Turn) -> OnTheWay:
        return OnTheWay(lane, turn, self._lanes.number(), self._complain)

    def _shapes(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Signature:
        """What must stay equal from call to call; a chunk's past keys and values may grow."""
        is_whole = self._context.said.chunk is None
        return signature((args, kwargs) if is_whole else self._clock.without_caches(args, kwargs))

    def _starts(self, plan: CompiledPlan, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether a call begins a run, by its timestep."""
        time, rounding = self._clock.timestep(args, kwargs).read()
        return any(section.grid.is_at(0, time, rounding) for section in plan.sections)


def asked(done: Callable[[], Doing | Later]) -> Doing | Later:
    """What a part of a call does, now that it is its turn."""
    return done()


def _itself(doing: Doing | Later) -> Doing | Later:
    return doing
