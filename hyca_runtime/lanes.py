"""The lanes of one network: one for each sampler of each thread, and for each chunk of its video."""

from __future__ import annotations

import threading

from hyca_runtime.agreement import Agreement
from hyca_runtime.attach.clock import Clock
from hyca_runtime.attach.context import Context
from hyca_runtime.compiled_plan import CompiledPlan
from hyca_runtime.lane import Lane


class Lanes:
    """Who calls one network.

    Args:
        context: what threads say of their calls.
        ranks: those that must decide as these do.
    """

    def __init__(self, clock: Clock, context: Context, ranks: Agreement) -> None:
        self._clock, self._context, self._ranks = clock, context, ranks
        self._numbers: dict[tuple[int, int], int] = {}
        self._numbering = threading.Lock()
        self._lanes: dict[tuple[int, int | None], Lane] = {}

    def number(self) -> int:
        """The number of the calling thread's sampler."""
        lane = threading.get_ident(), self._context.said.lane
        if lane not in self._numbers:
            with self._numbering:
                self._numbers[lane] = len(self._numbers)
        return self._numbers[lane]

    def of(self, own: bool) -> list[tuple[int, Lane]]:
        """The lanes of all threads, or the calling sampler's; those of its chunks in the order of their first call."""
        mine = self.number()
        return [(number, lane) for (number, _), lane in list(self._lanes.items()) if number == mine or not own]

    def at(self, plan: CompiledPlan) -> Lane:
        """The lane of the chunk that the calling thread has said, or of all that it calls."""
        plan, key = plan.at_chunk(self._context.said.chunk), (self.number(), self._context.said.chunk)
        lane = self._lanes.get(key)
        if lane is None or lane.plan is not plan:
            lane = self._lanes[key] = Lane(plan, self._clock, self._ranks, self._context.said.chunk)
        return lane

    def begin(self) -> None:
        """A run began in the calling thread's lane: chunks after it are of an earlier video."""
        mine, chunk = self.number(), self._context.said.chunk
        if chunk is None:
            return
        for number, other in list(self._lanes):
            if number == mine and other is not None and other > chunk:
                del self._lanes[number, other]

    def drop(self, own: bool) -> None:
        """Forget the lanes of all threads, or the calling sampler's."""
        mine = self.number()
        for key in list(self._lanes):
            if key[0] == mine or not own:
                self._lanes.pop(key, None)


def carry(lane: Lane, better: Lane, position: float) -> None:
    """Move the features of a lane since a position by what another one has there beside them, where both have some."""
    for key in lane.streams.keys() & better.streams.keys():
        histories, others = lane.streams[key].histories, better.streams[key].histories
        for name in histories.keys() & others.keys():
            histories[name].carry(position, others[name])
