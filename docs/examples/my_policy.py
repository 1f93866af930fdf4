"""A policy in one file: the plan's schedule, but the last steps are always computed.

A policy is asked before every network call, on the host, and answers from the moment alone. It must not look at
features: that would wait for the GPU.
"""

from __future__ import annotations

from hyca_runtime.moment import Moment
from hyca_runtime.policies import Scheduled
from hyca_runtime.schedule import COMPUTE, Action, Schedule


class CarefulEnd:
    """Computes the last `steps` steps, too."""

    def __init__(self, schedule: Schedule, steps: int = 3) -> None:
        self._plan, self._steps = Scheduled(schedule), steps

    def action(self, moment: Moment) -> Action:
        if moment.position >= moment.num_steps - self._steps:
            return COMPUTE
        return self._plan.action(moment)
