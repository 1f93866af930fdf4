"""A decision made once, offline."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import Any, ClassVar

from hyca_runtime.moment import Moment
from hyca_runtime.policies.base import Evidence, Policy, register_policy
from hyca_runtime.schedule import COMPUTE, Action, Schedule

LOOKAHEAD = 0.25
"""A step this much further on counts as reached, in steps of the plan."""


@register_policy
@dataclass(frozen=True)
class Scheduled(Policy):
    """Does what the schedule says for the step that the sampler reaches; computes if it reached or passed a step
    that is computed since its last call. Plans without a policy are followed so.

    On the plan's own steps that is the schedule itself; a sampler with other steps computes as often
    in its own time.
    """

    name: ClassVar[str] = "scheduled"

    def decide(self, state: Any, moment: Moment, schedule: Schedule, evidence: Evidence = None) -> tuple[Action, Any]:
        del evidence
        steps = range(schedule.num_steps)
        reached, before = (bisect_right(steps, p + LOOKAHEAD) for p in (moment.position, moment.previous))
        actions = schedule.actions(moment.branch)
        if reached > before:
            passed = actions[before:reached]
            return next((action for action in passed if action.computes), passed[-1]), state
        later = (*actions[reached:], *schedule.palette)
        return next((action for action in later if not action.computes), COMPUTE), state
