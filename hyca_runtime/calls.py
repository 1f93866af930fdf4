"""Telling of each call of a network which branch and which step it is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hyca_runtime.attach.clock import Clock
from hyca_runtime.branches import Branches
from hyca_runtime.free_tracker import FreeTracker
from hyca_runtime.plan_facts import TimeGrid
from hyca_runtime.run_tracker import RunTracker
from hyca_runtime.step_tracker import Progress


@dataclass(frozen=True)
class Call:
    """One call of a network, placed.

    Attributes:
        progress: whether it begins a run, or a step of it, or stays at the step of the call before.
        branch: the name of its guidance branch, or "", "#1", "#2" ... in order of appearance.
        part: which part of a picture or a video: its chunk, or how many calls of this branch came before it on this
            step.
        conditioned_anew: whether what conditions the branch, which had stayed the same, is another from this call on.
    """

    progress: Progress
    branch: str
    part: int
    conditioned_anew: bool = False


class CallResolver:
    """Follows the calls of one sampler. Branches may begin late, end early, pause, and be conditioned anew.

    Args:
        grids: time grids that its runs are held against; without any, steps are numbered as they come.
        chunk: of a long video, the only one that its calls are of; None where they are of all there is. A chunk that is
            called once more on the same step begins there anew: so it is while it waits for those before it.
    """

    def __init__(self, clock: Clock, grids: Sequence[TimeGrid] = (), chunk: int | None = None) -> None:
        self._clock, self._chunk = clock, chunk
        self.track = RunTracker(grids) if grids else FreeTracker()
        self._branches = Branches()
        self._called: dict[str, int] = {}
        self._called_before: dict[str, int] = {}

    def resolve(self, args: tuple[Any, ...], kwargs: dict[str, Any], name: str = "", said: int | None = None) -> Call:
        """Place a call.

        Args:
            name: of its guidance branch, if the pipeline or the caller says it.
            said: its step, if the caller says it.

        Raises:
            ClockError: its step or its branch cannot be told.
        """
        conditioning = self._clock.prompt(args, kwargs)
        found, likeness = self._branches.find(name, conditioning)
        now = self._clock.timestep(args, kwargs)
        progress = self.track.advance(self._clock, now, said, likeness, found in self._called)
        if self._chunk is not None and progress == "stays" and found in self._called:
            progress = self.track.repeat()
        if progress == "begins":
            self._branches = Branches()
            found, _ = self._branches.find(name, conditioning)
        if progress != "stays":
            self._close_step(progress == "begins")
        branch = self._branches.label(found, conditioning, frozenset(self._called))
        part = self._called.get(branch, 0)
        self._called[branch] = part + 1
        alone = part == 0 and self._called_before.get(branch, 1) == 1  # else parts may be conditioned each by its own
        anew = self._branches.has_changed(branch, likeness) and progress != "begins" and alone
        return Call(progress, branch, part if self._chunk is None else self._chunk, anew)

    def _close_step(self, ends_run: bool) -> None:
        """Hold a step against the one before: where frames have times of their own, it has more calls, or fewer."""
        for branch, count in () if ends_run else self._called.items():
            before = self._called_before.get(branch, count)
            if before != count:
                self.track.leave(f"calls of one branch on a step went from {before} to {count}")
        self._called_before, self._called = {} if ends_run else self._called, {}
