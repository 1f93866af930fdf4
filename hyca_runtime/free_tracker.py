"""Following one sampler that no grid is known of: its steps are numbered as they come."""

from __future__ import annotations

from hyca_runtime.attach.clock import Clock
from hyca_runtime.attach.timestep import SchedulerGrid, Timestep
from hyca_runtime.run_tracker import RunTracker
from hyca_runtime.step_tracker import Progress


class FreeTracker(RunTracker):
    """Where one sampler is; a *position* is the number of the step."""

    def __init__(self) -> None:
        super().__init__(())

    def _come_next(self, scheduler: SchedulerGrid, index: int, now: Timestep | None) -> Progress | None:
        del scheduler, now
        return self._move(self.position + 1, index)

    def _place(self, clock: Clock, now: Timestep, same_branch: bool) -> Progress:
        del same_branch
        grid = clock.grid()
        index = clock.index() if grid is not None else 0
        if self.position < 0 or grid is not self._scheduler or index < self._index:
            return self._begin(clock, 0.0)
        if grid is None and now.is_at(self._first):
            return self._begin(clock, 0.0)
        return self._move(self.position + max(1, index - self._index), index)
