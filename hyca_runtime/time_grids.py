"""Holding a scheduler's times against a grid."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hyca_runtime.plan_facts import TimeGrid

ANY = ("", "any", "NoneType")
"""What a grid says that was made for no scheduler in particular."""


def close(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether two lists of a scheduler's times are equal up to rounding."""
    return bool(np.allclose(a, b, rtol=1e-4, atol=1e-6))


def stands_at_start(grid: TimeGrid, times: Sequence[float]) -> bool:
    """Whether a scheduler that stands before `times` stands at the first of the grid."""
    own = grid.scheduler_timesteps
    return own is not None and len(times) > 0 and close(own[:1], times[:1])


def fits(grid: TimeGrid, times: Sequence[float]) -> bool:
    """Whether a scheduler that stands before `times` follows the grid; one that does not say its times fits."""
    return grid.scheduler_timesteps is None or keeps(grid, times)


def keeps(grid: TimeGrid, times: Sequence[float], step: int = 0) -> bool:
    """Whether a scheduler that stands before `times` at a `step` is known to keep the grid to its end."""
    own = (grid.scheduler_timesteps or ())[step:]
    return 0 < len(own) <= len(times) and close(own, times[: len(own)])


def position_of(times: Sequence[float], time: float) -> float:
    """Where `time` lies among `times`, which ascend or descend; their ends are not exceeded."""
    grid, steps = np.asarray(times), np.arange(len(times), dtype=np.float64)
    ascends = len(grid) < 2 or grid[0] <= grid[-1]
    return float(np.interp(time, grid, steps) if ascends else np.interp(-time, -grid, steps))


def steps_among(own: Sequence[float], times: Sequence[float]) -> int:
    """How many times lie where `own` do: an image-to-image run leaves out the first of its scheduler, one of several
    networks those of the others."""
    ordered = sorted(own)
    low, high = ordered[0], ordered[-1]
    if len(ordered) > 1:
        low, high = low - (ordered[1] - low) / 2, high + (high - ordered[-2]) / 2
    return sum(low <= time <= high for time in times)
