"""A decision made once, offline."""

from __future__ import annotations

from bisect import bisect_right

from hyca_runtime.moment import Moment
from hyca_runtime.schedule import COMPUTE, Action, Schedule

LOOKAHEAD = 0.25
"""A step this much further on counts as reached, in steps of the plan."""


class Scheduled:
    """Does what the schedule says for the step that the sampler reaches; computes if it reached or passed a step
    that is computed since its last call.

    On the plan's own steps that is the schedule itself; a sampler with other steps computes as often
    in its own time.
    """

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self._steps = range(schedule.num_steps)

    def action(self, moment: Moment) -> Action:
        reached, before = (bisect_right(self._steps, p + LOOKAHEAD) for p in (moment.position, moment.previous))
        actions = self._schedule.actions(moment.branch)
        if reached > before:
            passed = actions[before:reached]
            return next((action for action in passed if action.computes), passed[-1])
        later = (*actions[reached:], *self._schedule.palette)
        return next((action for action in later if not action.computes), COMPUTE)
