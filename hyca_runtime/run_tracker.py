"""Following one stream of calls through the sections of a plan.

A *position* is a step of the section's own grid; a sampler with other steps is at fractions of it.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from hyca_runtime.attach.clock import Clock, SchedulerGrid
from hyca_runtime.errors import ClockError
from hyca_runtime.network_plan import NetworkPlan


class RunTracker:
    """Where one stream is.

    Attributes:
        run: how many runs it began, less one.
        section: which section its run follows.
        position: the latest call's, -1 before the first.
        previous: the call's before it in the same run, -1 at its first.
        off_plan: why the run does not follow the plan's own grid, or "".
    """

    def __init__(self, sections: Sequence[NetworkPlan]) -> None:
        self._sections = sections
        self._candidates = list(sections)
        self._grid: SchedulerGrid | None = None
        self._offset = 0
        self._calls = 0
        self._prompt: weakref.ref[Tensor] | None = None
        self.run = -1
        self.position = self.previous = -1.0
        self.off_plan = ""

    @property
    def section(self) -> NetworkPlan:
        return self._candidates[0]

    @property
    def undecided(self) -> bool:
        """Whether several sections share all times so far."""
        return len(self._candidates) > 1

    @property
    def ends(self) -> bool:
        """Whether no later call of this run will ask for a forecast."""
        if self._grid is not None and self.off_plan:
            return self._offset + self._calls >= len(self._grid.times)
        return self.position >= self.section.schedule.num_steps - 1

    def advance(
        self, clock: Clock, args: tuple[Any, ...], kwargs: dict[str, Any], prompt: Tensor | None, said: int | None
    ) -> bool:
        """Move to the position of a call; returns whether a new run begins with it.

        Args:
            prompt: the tensor that conditions the call, if known.
            said: the step the caller says, if any.

        Raises:
            ClockError: a new run cannot be told from the next step.
        """
        same_prompt = prompt is None or (self._prompt is not None and self._prompt() is prompt)
        self._prompt = weakref.ref(prompt) if prompt is not None else None
        begins = False
        if said is not None:
            begins = said == 0 or said <= self.position
            if begins:
                self._begin(list(self._sections), None, 0)
            self._go_to(said)
        elif same_prompt and self.in_step_with(clock):
            self._follow_scheduler()
        else:
            begins = self._read(clock, *clock.timestep(args, kwargs), same_prompt)
        self._calls = 1 if begins else self._calls + 1
        return begins

    def _begin(self, candidates: list[NetworkPlan], grid: SchedulerGrid | None, offset: int) -> None:
        self._candidates, self._grid, self._offset = candidates, grid, offset
        self._calls = 0
        self.run, self.position, self.off_plan = self.run + 1, -1.0, ""

    def _go_to(self, step: int) -> None:
        if step >= self.section.schedule.num_steps:
            self._leave(f"step {step} is beyond the plan's {self.section.schedule.num_steps}")
        elif step != self.position + 1 and not self.off_plan:
            self._leave(f"step {step} came after step {self.position:g}")
        self._move(float(step))

    def _move(self, position: float) -> None:
        self.previous, self.position = self.position, position

    def _leave(self, reason: str) -> None:
        self.off_plan = self.off_plan or reason

    def _is_same_run(self, clock: Clock, same_prompt: bool) -> bool:
        """Whether a call at a later time can belong to the run so far.

        A cancelled run must not be taken up by another that starts where it ended (image to image).
        """
        if self._grid is None or same_prompt:
            return same_prompt and (self._grid is None or clock.grid() is self._grid)
        return self.in_step_with(clock)

    def in_step_with(self, clock: Clock) -> bool:
        """Whether the scheduler, unchanged since the run began, stands exactly one step further."""
        grid = clock.grid() if self._grid is not None else None
        return grid is not None and grid is self._grid and clock.index() == self._offset + self._calls < len(grid.times)

    def _follow_scheduler(self) -> None:
        section, expected = self.section, int(self.position) + 1
        if not self.off_plan and expected < section.schedule.num_steps:
            self._move(float(expected))
        elif self._grid is not None and section.sampler.scheduler_timesteps is not None:  # always, when in step
            self._leave(f"step {expected} is beyond the plan's {section.schedule.num_steps}")
            time = self._grid.times[self._offset + self._calls]
            self._move(_position(section.sampler.scheduler_timesteps, time))

    def _read(self, clock: Clock, time: float, rounding: float, same_prompt: bool) -> bool:
        expected = int(self.position) + 1
        same_run = self.position >= 0 and self._is_same_run(clock, same_prompt)
        runs_on = same_run and not self.off_plan
        going_on = [s for s in self._candidates if runs_on and s.sampler.is_at(expected, time, rounding)]
        starting = [section for section in self._sections if section.sampler.is_at(0, time, rounding)]
        if going_on and starting and self._restarts(clock, same_prompt):
            going_on = []
        if going_on:
            self._candidates = going_on
            self._move(float(expected))
            return False
        if starting:
            self._start(clock, starting)
            return True
        return self._off_grid(clock, time, same_run)

    def _restarts(self, clock: Clock, same_prompt: bool) -> bool:
        """Whether a time that is both the first and the next is the first."""
        grid = clock.grid()
        if grid is not None:
            return grid is not self._grid or clock.index() <= self._offset
        if same_prompt:
            raise ClockError(
                "this timestep is, in its precision, both that of step 0 and of the next step, so a new run cannot "
                "be told from a running one; apply the plan to the pipeline, or say the step: with session.at(step)"
            )
        return True

    def _start(self, clock: Clock, starting: list[NetworkPlan]) -> None:
        grid = clock.grid()
        offset = clock.index() if grid is not None else 0
        if grid is not None and not any(_stands_at_start(s, grid.times[offset:]) for s in starting):
            grid = None  # the scheduler of another run
        fitting = [section for section in starting if grid is None or _fits(section, grid.times[offset:])]
        chosen = fitting or sorted(starting, key=lambda s: abs(s.schedule.num_steps - len(grid.times if grid else ())))
        self._begin(chosen, grid, offset)
        self._move(0.0)
        if not fitting and grid is not None:
            own = chosen[0].schedule.num_steps
            self._leave(f"the sampler's {len(grid.times) - offset} timesteps are none of the plan's {own}")

    def _off_grid(self, clock: Clock, time: float, same_run: bool) -> bool:
        section = self.section
        position = _position(section.sampler.timesteps, time)
        begins = not same_run or position <= self.position
        if begins:
            grid = clock.grid() if section.sampler.scheduler_timesteps is not None else None
            self._begin([section], grid, clock.index() if grid is not None else 0)
        self._leave(f"timestep {time:g} is none of the plan's {section.schedule.num_steps}")
        self._move(position)
        return begins


def _stands_at_start(section: NetworkPlan, times: Sequence[float]) -> bool:
    own = section.sampler.scheduler_timesteps
    return own is not None and len(times) > 0 and bool(np.isclose(own[0], times[0], rtol=1e-4, atol=1e-6))


def _fits(section: NetworkPlan, times: Sequence[float]) -> bool:
    """Whether a scheduler that stands before `times` follows the section's grid; an unsaid grid fits."""
    own = section.sampler.scheduler_timesteps
    if own is None:
        return True
    return len(times) >= len(own) and np.allclose(own, times[: len(own)], rtol=1e-4, atol=1e-6)


def _position(times: Sequence[float], time: float) -> float:
    """Where `time` lies among `times`, which ascend or descend; their ends are not exceeded."""
    grid, steps = np.asarray(times), np.arange(len(times), dtype=np.float64)
    ascends = len(grid) < 2 or grid[0] <= grid[-1]
    return float(np.interp(time, grid, steps) if ascends else np.interp(-time, -grid, steps))
