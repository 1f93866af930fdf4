"""Where the calls of one sampler are, as its scheduler, the times of the calls and what conditions them tell."""

from __future__ import annotations

from typing import Literal

from hyca_runtime.attach.clock import Clock
from hyca_runtime.attach.timestep import SchedulerGrid, Timestep
from hyca_runtime.branches import Likeness

Progress = Literal["begins", "moves", "stays"]
"""What a call does: begin a run, come to another step of it, or be one more call of the present step."""


class StepTracker:
    """Where one sampler is. Its heirs say which step a call is of that does not stay at the latest.

    Attributes:
        run: how many runs it began, less one.
        steps: how many steps of this run it came to.
        position: of the latest call, -1 before the first.
        off_grid: why the run does not follow what it is held against, or "".
    """

    def __init__(self) -> None:
        self._scheduler: SchedulerGrid | None = None
        self._index = 0
        self._first = self._latest = Timestep(None)
        self.run, self.steps, self.position = -1, 0, -1.0
        self.off_grid = ""

    def advance(self, clock: Clock, now: Timestep, said: int | None, likeness: Likeness, repeated: bool) -> Progress:
        """Move to the position of a call.

        Args:
            now: the timestep of the call, unread.
            said: the step the caller says, if any.
            likeness: of what conditions the call to an earlier one of the run.
            repeated: whether this branch was called on the present step already.

        Raises:
            ClockError: a new run cannot be told from the next step.
        """
        same_branch = likeness != "other"
        if said is not None:
            progress = self._go_to(clock, now, said, same_branch, repeated)
        else:
            doubted = likeness == "alike" or not now.waits  # a time that costs nothing to read is read
            glanced = self._glance(clock, now if doubted else None, repeated) if same_branch else None
            progress = glanced or self._read(clock, now, same_branch, repeated)
        if progress != "stays":
            self._latest = now
            self.steps = 1 if progress == "begins" else self.steps + 1
        if progress == "begins":
            self._first = now
        return progress

    def repeat(self) -> Progress:
        """Begin a run where the run before stands."""
        self.run, self.steps = self.run + 1, 1
        return "begins"

    def leave(self, reason: str) -> None:
        """Follow the grid no longer in this run; the first reason counts."""
        self.off_grid = self.off_grid or reason

    def _go_to(self, clock: Clock, now: Timestep, step: int, same_branch: bool, repeated: bool) -> Progress:
        """Move to a step that the caller says."""
        raise NotImplementedError

    def _come_next(self, scheduler: SchedulerGrid, index: int, now: Timestep | None) -> Progress | None:
        """Move to the next step, which the scheduler stands at; None if `now` is known to be another's."""
        raise NotImplementedError

    def _place(self, clock: Clock, now: Timestep, same_branch: bool) -> Progress:
        """Move to where a timestep tells."""
        raise NotImplementedError

    def _begin(self, clock: Clock | None, position: float) -> Progress:
        self._scheduler = clock.grid() if clock is not None else None
        self._index = clock.index() if clock is not None and self._scheduler is not None else 0
        self.run, self.position, self.off_grid = self.run + 1, position, ""
        return "begins"

    def _move(self, position: float, index: int | None = None) -> Progress:
        self.position = position
        self._index = self._index if index is None else index
        return "moves"

    def _glance(self, clock: Clock, now: Timestep | None, repeated: bool) -> Progress | None:
        """What the scheduler alone tells, without reading a timestep; None if it does not.

        Args:
            now: a timestep that is read all the same, for the call may be another pipeline's.
        """
        if self.position < 0 or self._scheduler is None or clock.grid() is not self._scheduler:
            return None
        index = clock.index()
        if index == self._index and not repeated:
            return "stays"
        if index != self._index + 1 or index >= len(self._scheduler.times):
            return None
        return self._come_next(self._scheduler, index, now)

    def _read(self, clock: Clock, now: Timestep, same_branch: bool, repeated: bool) -> Progress:
        """What the timestep of the call tells."""
        self._scheduler = self._scheduler if clock.grid() is not None else None  # another thread's, as it turned out
        stands = self.position >= 0 and self._stands(clock) and now.is_at(self._latest)
        if stands and (not repeated or (same_branch and self._scheduler is not None)):
            return "stays"  # another branch, or another part of a picture that is denoised in parts
        return self._place(clock, now, same_branch)

    def _stands(self, clock: Clock) -> bool:
        """Whether the scheduler, if there is one, is where it was at the latest step."""
        return self._scheduler is None or (clock.grid() is self._scheduler and clock.index() == self._index)
