"""A policy in one file: after each computed step a longer gap is allowed, up to a limit.

A policy is a frozen dataclass. What it remembers of a run is the state that it is given and gives back;
here how long the present gap is and how long it may become.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hyca_runtime.moment import Moment
from hyca_runtime.policies import Evidence, Policy, register_policy
from hyca_runtime.schedule import COMPUTE, Action, Schedule

Gap = tuple[int, int]
"""Steps since the last computed one, and how many there may be."""


@register_policy
@dataclass(frozen=True)
class GrowingGaps(Policy):
    """Computes, then forecasts one step, computes, forecasts two, ... at most `longest`."""

    longest: int = 6
    name: ClassVar[str] = "growing_gaps"

    def begin(self) -> Gap:
        return 0, 0

    def decide(self, state: Gap, moment: Moment, schedule: Schedule, evidence: Evidence = None) -> tuple[Action, Gap]:
        del moment, evidence
        since, allowed = state
        if since >= allowed:
            return COMPUTE, (0, min(allowed + 1, self.longest))
        forecast = next(action for action in schedule.palette if not action.computes)
        return forecast, (since + 1, allowed)
