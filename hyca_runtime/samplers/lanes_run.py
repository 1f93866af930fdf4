"""What lanes drew, and what that took."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hyca_runtime.samplers.chords import Chords, Hit
from hyca_runtime.samplers.starts import Lanes

Computed = Sequence[Sequence[int]]
"""Of every lane the calls, counted from 0, on which something of the network was computed."""


@dataclass(frozen=True)
class LanesRun:
    """One sample drawn by several lanes.

    Attributes:
        output: what the pipeline returned.
        passes: one after another; in each the lanes call the network at once, where there are devices for that.
        hits: finished samples, from coarse to exact; the last is what was drawn.
        calls: evaluations of the network by each lane, guidance inside.
        computed: those of them on which it was computed, not forecast; all without a plan.
        computed_passes: passes on which any lane computed it. They are what waiting consists of.
        spare: evaluations of this process beside its lanes', while their devices had nothing else to do.
    """

    output: Any = field(repr=False)
    lanes: Lanes
    passes: int
    hits: tuple[Hit, ...] = field(repr=False)
    calls: tuple[int, ...]
    computed: tuple[int, ...]
    computed_passes: int
    spare: int = 0

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


def lanes_run(output: Any, chords: Chords, computed: Computed, spare: int) -> LanesRun:
    """The account of a run."""
    passes = {lane + call for lane, made in enumerate(computed) for call in made}  # lane n is called from pass n on
    return LanesRun(
        output=output,
        lanes=chords.lanes,
        passes=chords.passes,
        hits=tuple(chords.hits),
        calls=chords.lanes.calls(chords.passes),
        computed=tuple(len(made) for made in computed),
        computed_passes=len(passes),
        spare=spare,
    )
