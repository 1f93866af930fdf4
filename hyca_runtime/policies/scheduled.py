"""A decision made once, offline."""

from __future__ import annotations

from bisect import bisect_right

from hyca_runtime.moment import Moment
from hyca_runtime.schedule import PREDICT, Action, Schedule

LOOKAHEAD = 0.25
"""A step this much further on counts as reached, in steps of the plan."""


class Scheduled:
    """Computes when the sampler reaches a computed step of the schedule, or passes one since its last call.

    On the plan's own steps that is the schedule itself; a sampler with other steps computes as often
    in its own time.
    """

    def __init__(self, schedule: Schedule) -> None:
        self._schedule, self._computed = schedule, schedule.computed_steps

    def action(self, moment: Moment) -> Action:
        reached, before = (bisect_right(self._computed, p + LOOKAHEAD) for p in (moment.position, moment.previous))
        return self._schedule[self._computed[reached - 1]] if reached > before else PREDICT
