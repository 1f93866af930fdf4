"""Following one sampler, with grids of times of which it is expected to keep one.

A *position* is a step of the grid; a sampler with other steps is at fractions of it.
"""

from __future__ import annotations

from collections.abc import Sequence

from hyca_runtime.attach.clock import Clock
from hyca_runtime.attach.timestep import SchedulerGrid, Timestep
from hyca_runtime.errors import ClockError
from hyca_runtime.plan_facts import TimeGrid
from hyca_runtime.step_tracker import Progress, StepTracker
from hyca_runtime.time_grids import ANY, fits, keeps, position_of, stands_at_start, steps_among


class RunTracker(StepTracker):
    """Where one sampler is among grids that its runs are held against."""

    def __init__(self, grids: Sequence[TimeGrid]) -> None:
        super().__init__()
        self._grids = grids
        self._candidates = list(range(len(grids)))
        self._said_under: SchedulerGrid | None = None

    @property
    def at(self) -> int:
        """The number of the grid that is followed."""
        return self._candidates[0]

    @property
    def undecided(self) -> bool:
        """Whether several grids share all times so far."""
        return len(self._candidates) > 1

    @property
    def grid(self) -> TimeGrid:
        return self._grids[self.at]

    @property
    def density(self) -> float:
        """Steps of a sampler that leaves the grid over those of the grid; 1 where its scheduler is not known."""
        if self._scheduler is None or not self.off_grid:
            return 1.0
        own, times = self.grid.scheduler_timesteps, self._scheduler.times
        return (len(times) if own is None else steps_among(own, times)) / len(self.grid.timesteps)

    @property
    def ends(self) -> bool:
        """Whether no later step of this run will ask for a forecast."""
        if self._scheduler is not None and self.off_grid:
            return self._index + 1 >= len(self._scheduler.times)
        return self.position >= len(self.grid.timesteps) - 1

    def _begin_at(self, clock: Clock | None, candidates: Sequence[int], position: float) -> Progress:
        """Begin a run of one of some grids.

        Args:
            clock: whose scheduler drives it; None where that is not known.
        """
        self._candidates, self._said_under = list(candidates), None
        begins = self._begin(clock, position)
        if self._scheduler is not None and clock is not None:
            self._check_sampler(clock)
        return begins

    def _check_sampler(self, clock: Clock) -> None:
        made, sampler = self.grid.scheduler, clock.sampler()
        if sampler and made not in (*ANY, sampler):
            self.leave(f"the sampler is {sampler}, not {made}")

    def _go_to(self, clock: Clock, now: Timestep, step: int, same_branch: bool, repeated: bool) -> Progress:
        """What the caller says; a scheduler that keeps the grid from there tells the steps that are not said."""
        grid, last = clock.grid(), self._scheduler or self._said_under
        follows = step == self.position + 1 or (step == self.position and not repeated)
        runs_on = same_branch or follows
        if grid and last and grid is not last:  # set anew: by who makes each step a run of its own, or for a new run
            runs_on = same_branch and follows and not keeps(self.grid, clock.ahead(), step)
        if runs_on and step == self.position and not (step == 0 and repeated):
            return "stays"
        before = self.position if runs_on and 0 <= self.position < step else -1.0
        if before < 0:
            self._begin_at(None, range(len(self._grids)), float(step))
        if self.undecided:
            found = [i for i in self._candidates if now.is_given and self._grids[i].is_at(step, *now.read())]
            if not found:
                self.leave(f"the time of step {step} is that of none of the plan's {len(self._candidates)} grids")
            self._candidates = found or self._candidates
        self._said_under, self._scheduler = grid, grid if keeps(self.grid, clock.ahead(), step) else None
        if step >= len(self.grid.timesteps):
            self.leave(f"step {step} is beyond the plan's {len(self.grid.timesteps)}")
        elif before >= 0 and step != before + 1:
            self.leave(f"step {step} came after step {before:g}")
        elif before < 0 < step and self._scheduler is None:
            self.leave(f"its run began at step {step}")
        self._index = clock.index() if self._scheduler is not None else 0
        return self._move(float(step)) if before >= 0 else "begins"

    def _come_next(self, scheduler: SchedulerGrid, index: int, now: Timestep | None) -> Progress | None:
        grid, expected = self.grid, int(self.position) + 1
        if not self.off_grid and expected < len(grid.timesteps):
            return self._move(float(expected), index) if now is None or self._may_be_at(expected, now) else None
        if grid.scheduler_timesteps is None:
            return None
        self.leave(f"step {expected} is beyond the plan's {len(grid.timesteps)}")
        return self._move(position_of(grid.scheduler_timesteps, scheduler.times[index]), index)

    def _may_be_at(self, step: int, now: Timestep) -> bool:
        """Whether a timestep is not known to be none of a step's."""
        return not now.is_given or any(self._grids[i].is_at(step, *now.read()) for i in self._candidates)

    def _place(self, clock: Clock, now: Timestep, same_branch: bool) -> Progress:
        expected = int(self.position) + 1
        runs_on = self.position >= 0 and not self.off_grid and self._is_same_run(clock, same_branch)
        going_on = [i for i in self._candidates if runs_on and self._grids[i].is_at(expected, *now.read())]
        starting = [i for i, grid in enumerate(self._grids) if grid.is_at(0, *now.read())]
        if going_on and not (starting and self._restarts(clock, same_branch)):
            self._candidates = going_on
            return self._move(float(expected), clock.index() if self._scheduler is not None else None)
        if starting:
            return self._start(clock, starting)
        found = self._resume(clock, now) if runs_on else self._start_late(clock, now)
        return found or self._go_off(clock, now, same_branch)

    def _is_same_run(self, clock: Clock, same_branch: bool) -> bool:
        """Whether a call at a later time can belong to the run so far.

        A cancelled run must not be taken up by another that starts where it ended (image to image).
        """
        if self._scheduler is None or same_branch:
            return same_branch and (self._scheduler is None or clock.grid() is self._scheduler)
        return clock.grid() is self._scheduler and clock.index() == self._index + 1 < len(self._scheduler.times)

    def _restarts(self, clock: Clock, same_branch: bool) -> bool:
        """Whether a time that is both the first and the next is the first."""
        grid = clock.grid()
        if grid is not None:
            return grid is not self._scheduler or clock.index() <= self._index
        if same_branch:
            raise ClockError(
                "this timestep is, in its precision, both that of step 0 and of the next step, so a new run cannot "
                "be told from a running one; apply the plan to the pipeline, or say the step: with session.at(step)"
            )
        return True

    def _start(self, clock: Clock, starting: Sequence[int]) -> Progress:
        ahead = clock.ahead()
        if not any(stands_at_start(self._grids[i], ahead) for i in starting):
            ahead = []  # the scheduler of another run
        fitting = [i for i in starting if not ahead or fits(self._grids[i], ahead)]
        chosen = fitting or sorted(starting, key=lambda i: abs(len(self._grids[i].timesteps) - len(ahead)))
        self._begin_at(clock if ahead else None, chosen, 0.0)
        if clock.grid() is None:
            self._check_sampler(clock)
        if not fitting:
            self.leave(f"the sampler's {len(ahead)} timesteps are none of the plan's {len(self.grid.timesteps)}")
        return "begins"

    def _start_late(self, clock: Clock, now: Timestep) -> Progress | None:
        """Begin at a later step of a grid that the scheduler keeps to its end (image to image), if there is one."""
        ahead = clock.ahead()
        for i, grid in enumerate(self._grids):
            step = len(grid.timesteps) - len(ahead)
            if step > 0 and keeps(grid, ahead, step) and grid.is_at(step, *now.read()):
                return self._begin_at(clock, [i], float(step))
        return None

    def _resume(self, clock: Clock, now: Timestep) -> Progress | None:
        """Come to a later step of a grid that the scheduler keeps, over steps without a call; None if it does not."""
        step = int(self.position) + (clock.index() - self._index if self._scheduler is not None else 0)
        if step > self.position and self.grid.is_at(step, *now.read()):
            return self._move(float(step), clock.index())
        return None

    def _go_off(self, clock: Clock, now: Timestep, same_branch: bool) -> Progress:
        grid, (time, rounding) = self.grid, now.read()
        position, before = position_of(grid.timesteps, time), self.position
        ahead = before >= 0 and (time - self._latest.read()[0]) * (grid.timesteps[-1] - grid.timesteps[0]) > 0
        begins = not ahead or not self._is_same_run(clock, same_branch)
        if begins:
            self._begin_at(clock if grid.scheduler_timesteps is not None else None, [self.at], position)
        else:
            self._move(position, clock.index() if self._scheduler is not None else None)
        step = next((step for step in range(len(grid.timesteps)) if grid.is_at(step, time, rounding)), None)
        if step is None:
            self.leave(f"timestep {time:g} is none of the plan's {len(grid.timesteps)}")
        self.leave(f"its run began at step {step}" if begins else f"step {step} came after step {before:g}")
        return "begins" if begins else "moves"
