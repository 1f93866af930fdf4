"""What methods that plan by edge costs share: the cheapest path over a given number of steps, and their numbers."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from hyca_calib.baselines.base import Axis

__all__ = ["best_path", "computed_axis"]


def computed_axis(num_steps: int) -> Axis:
    """The number of computed steps: each up to a half of the run, then every third."""
    half = num_steps // 2
    rungs = (*range(min(3, half), half), *range(half, num_steps, 3))
    return Axis("computed", rungs, tuple(num_steps * percent / 100 for percent in (10, 16, 24, 36, 56)))


def best_path(costs: NDArray[np.float64], count: int) -> tuple[int, ...]:
    """The path from the first to the last step over exactly `count` steps that costs least.

    Args:
        costs: ``(from, to)`` of computing both and nothing between; infinite where that is not allowed.

    Raises:
        ValueError: there is no such path.
    """
    steps = len(costs)
    forward = np.where(np.triu(np.ones_like(costs), 1) > 0, costs, np.inf)
    least = np.full(steps, np.inf)
    least[0] = 0.0
    before = []
    for _ in range(count - 1):
        arrivals = least[:, None] + forward
        before.append(arrivals.argmin(axis=0))
        least = arrivals.min(axis=0)
    if not np.isfinite(least[-1]):
        raise ValueError(f"no path over {count} of {steps} steps; expected at least 2 steps, and costs that allow one")
    path = [steps - 1]
    for origins in reversed(before):
        path.append(int(origins[path[-1]]))
    return tuple(reversed(path))
