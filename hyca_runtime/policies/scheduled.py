"""A decision made once, offline."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass

from hyca_runtime.moment import Moment
from hyca_runtime.schedule import PREDICT, Action, Schedule

__all__ = ["Scheduled"]

LOOKAHEAD = 0.25
"""A step this much further on counts as reached, in steps of the plan."""


@dataclass(frozen=True)
class Scheduled:
    """Computes when the sampler reaches a computed step of the schedule, or passes one since its last call.

    On the plan's own steps that is the schedule itself; a sampler with other steps computes as often
    in its own time.
    """

    schedule: Schedule

    def action(self, moment: Moment) -> Action:
        computed = self.schedule.computed_steps
        reached, before = (bisect_right(computed, p + LOOKAHEAD) for p in (moment.position, moment.previous))
        if reached > before:
            return self.schedule[computed[reached - 1]]
        return PREDICT
