"""What lanes drew, and what that took."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hyca_runtime.samplers.chords import Hit
from hyca_runtime.samplers.single_step import SingleStep
from hyca_runtime.samplers.starts import Lanes


@dataclass(frozen=True)
class LanesRun:
    """One sample drawn by several lanes.

    Attributes:
        output: what the pipeline returned.
        sampler: with its time grid.
        passes: one after another; in each the lanes call the network at once, where there are devices for that.
        hits: finished samples, from coarse to exact; the last is what was drawn.
        calls: evaluations of the network by each lane, guidance inside.
        computed_at: those of each lane, counted from 0, on which it was computed, not forecast; all without a plan.
        spare: evaluations of this process beside its lanes', while their devices had nothing else to do.
    """

    output: Any = field(repr=False)
    lanes: Lanes
    sampler: SingleStep = field(repr=False)
    passes: int
    hits: tuple[Hit, ...] = field(repr=False)
    calls: tuple[int, ...]
    computed_at: tuple[tuple[int, ...], ...]
    spare: int = 0

    @property
    def computed(self) -> tuple[int, ...]:
        """How many of its calls each lane computed."""
        return tuple(map(len, self.computed_at))

    @property
    def computed_passes(self) -> int:
        """Passes on which any lane computed something. They are what waiting consists of."""
        return len(self.until(self.passes)[1])

    def until(self, passes: int) -> tuple[int, frozenset[int]]:
        """What the first passes took: calls that were computed, and passes with any, counted from 0."""
        made = [lane + call for lane, calls in enumerate(self.computed_at) for call in calls]
        early = [number for number in made if number < passes]  # lane n is called from pass n on
        return len(early), frozenset(early)

    def __str__(self) -> str:
        steps = self.lanes.num_steps
        told = f"{len(self.lanes)} lanes: {self.passes} passes instead of {steps} steps"
        lines = [
            f"{told}, {sum(self.calls)} evaluations, {sum(self.computed)} computed, on {self.computed_passes} passes"
        ]
        for lane, (start, calls, computed) in enumerate(zip(self.lanes.starts, self.calls, self.computed, strict=True)):
            found = [f"sample after pass {hit.passes}" for hit in self.hits[1:] if hit.lane == lane]
            lines.append("  " + ", ".join([f"lane {lane} from step {start}: {computed} of {calls} computed", *found]))
        return "\n".join(lines)
