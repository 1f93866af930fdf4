"""Where the lanes of one sample begin, and what that costs in passes and in network calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import index

from hyca_runtime.errors import SamplerError

PUBLISHED_STEPS = 50
PUBLISHED = {4: (0, 8, 16, 32), 6: (0, 3, 6, 12, 24, 36), 8: (0, 2, 4, 8, 16, 24, 32, 40)}
"""Starts by number of lanes, as published for `PUBLISHED_STEPS` steps (CHORDS, arXiv 2507.15260)."""


@dataclass(frozen=True)
class Lanes:
    """Lanes of one sample, from the slow and exact one to the fast and coarse one.

    Attributes:
        num_steps: steps of the sampler.
        starts: the step that each lane begins at; the first is 0, and they ascend.

    Raises:
        SamplerError: no such lanes.
    """

    num_steps: int
    starts: tuple[int, ...]

    def __post_init__(self) -> None:
        ascending = all(a < b for a, b in pairwise(self.starts))
        if not self.starts or self.starts[0] != 0 or not ascending or self.starts[-1] >= self.num_steps:
            raise SamplerError(
                f"starts: expected ascending steps from 0, below the sampler's {self.num_steps}, got {self.starts}"
            )

    def __len__(self) -> int:
        return len(self.starts)

    def finish(self, lane: int) -> int:
        """The pass, counted from 1, after which a lane has its sample."""
        return lane + self.num_steps - self.starts[lane]

    def step(self, lane: int, number: int) -> int | None:
        """The step at which a lane calls the network in a pass; None where it has not begun, or is done."""
        step = self.starts[lane] + number - 1 - lane
        return step if number > lane and step < self.num_steps else None

    def corrected(self, lane: int) -> tuple[int, ...]:
        """The passes, counted from 1, in which a lane is corrected by the slower one behind it."""
        if lane == 0:
            return ()
        period = self.starts[lane] - self.starts[lane - 1]
        return tuple(range(period + lane, self.finish(lane) + 1, period))

    def calls(self, passes: int) -> tuple[int, ...]:
        """Network calls of each lane in so many passes; guidance is inside a call."""
        return tuple(max(0, min(passes - lane, self.num_steps - start)) for lane, start in enumerate(self.starts))

    def passes(self, hits: int) -> int:
        """The passes until so many lanes have their sample; with 0 all begin, and the last jumps to the end."""
        if not 0 <= hits <= len(self):
            raise SamplerError(f"expected to stop after 0 to {len(self)} lanes, got {hits}")
        return len(self) if hits == 0 else self.finish(len(self) - hits)


def as_lanes(starts: int | Sequence[int], num_steps: int) -> Lanes:
    """Lanes from their starts, or from their number: a published list, scaled to the steps, or the published rule."""
    if not isinstance(starts, int):
        return Lanes(num_steps, tuple(index(start) for start in starts))
    if starts in PUBLISHED:
        return Lanes(num_steps, tuple(round(i * num_steps / PUBLISHED_STEPS) for i in PUBLISHED[starts]))
    return Lanes(num_steps, ruled_starts(starts, num_steps, round(0.8 * num_steps) if starts > 4 else num_steps // 2))


def ruled_starts(lanes: int, num_steps: int, last: int) -> tuple[int, ...]:
    """Starts by the published rule, from the fast lane to the slow.

    Behind a lane that begins at the share t of all steps the next begins at t / 2 if 1 / (1 - t) is at most 3, else at
    2 t - 1: there, and not earlier, the fast lane is corrected once before its end.

    Args:
        last: where the fast lane begins.

    Raises:
        SamplerError: there is no room for so many lanes.
    """
    starts = [last] if lanes > 1 else []
    while len(starts) < lanes - 1:
        ahead = starts[-1]
        starts.append(ahead // 2 if num_steps <= 3 * (num_steps - ahead) else 2 * ahead - num_steps)
    return Lanes(num_steps, (0, *reversed(starts))).starts
