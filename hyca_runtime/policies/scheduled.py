"""A decision made once, offline."""

from __future__ import annotations

from dataclasses import dataclass

from hyca_runtime.moment import Moment
from hyca_runtime.schedule import Action, Schedule

__all__ = ["Scheduled"]


@dataclass(frozen=True)
class Scheduled:
    """Reads the action of each step from a `Schedule`."""

    schedule: Schedule

    def action(self, moment: Moment) -> Action:
        return self.schedule[moment.step]
