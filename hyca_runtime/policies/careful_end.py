"""The plan's schedule, with a careful end."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from hyca_runtime.moment import Moment
from hyca_runtime.policies.base import Evidence, Policy, register_policy
from hyca_runtime.policies.scheduled import Scheduled
from hyca_runtime.schedule import COMPUTE, Action, Schedule


@register_policy
@dataclass(frozen=True)
class CarefulEnd(Policy):
    """Follows the schedule, and computes the last `steps` steps, too."""

    steps: int = 3
    name: ClassVar[str] = "careful_end"

    def __post_init__(self) -> None:
        if type(self.steps) is not int or self.steps < 1:
            raise ValueError(f"careful_end: steps must be a whole number, 1 or more, got {self.steps}")

    def decide(self, state: Any, moment: Moment, schedule: Schedule, evidence: Evidence = None) -> tuple[Action, Any]:
        del evidence
        if moment.position >= moment.num_steps - self.steps:
            return COMPUTE, state
        return Scheduled().decide(state, moment, schedule)
