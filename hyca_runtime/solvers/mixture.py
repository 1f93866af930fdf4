"""Many groups, many solvers, one table: what the runtime evaluates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hyca_runtime.solvers.base import Instant, Solver


@dataclass(frozen=True)
class TapTable:
    """The weights of one predicted step.

    Attributes:
        history: the computed steps they weigh, newest first.
        weights: float32 ``(len(history), channels)``.
    """

    history: tuple[int, ...]
    weights: np.ndarray


def tap_table(
    kept: Sequence[int],
    targets: Sequence[int],
    times: Sequence[float],
    groups: Sequence[tuple[np.ndarray, Solver]],
    num_channels: int,
    live: bool = False,
) -> Mapping[int, TapTable]:
    """Expand solvers per group into one `TapTable` for each step on which a point is forecast.

    Args:
        kept: steps on which its feature is computed, ascending.
        targets: steps on which it is forecast.
        times: ``(num_steps,)`` on the plan's time axis.
        groups: channel indices and solver of each group; together every channel once.
        num_channels: length of a feature vector.
        live: whether a target that is kept, too, is in its own history.
    """
    depth = max(solver.depth for _, solver in groups)
    table = {}
    for step in targets:
        history = tuple(s for s in reversed(kept) if s < step or (live and s == step))[:depth]
        past = [Instant(s, times[s]) for s in history]
        table[step] = TapTable(history, mixed_rows(past, Instant(step, times[step]), groups, num_channels))
    return table


def mixed_rows(
    past: Sequence[Instant], target: Instant, groups: Sequence[tuple[np.ndarray, Solver]], num_channels: int
) -> np.ndarray:
    """The rows of all groups, float32 ``(len(past), channels)``; shorter ones are padded with zeros."""
    weights = np.zeros((len(past), num_channels), dtype=np.float32)
    with np.errstate(all="ignore"):  # absurd times of a plan; what comes of them is refused below
        for channels, solver in groups:
            rows = solver.rows(past, target)
            if rows.ndim == 2 and rows.shape[1] not in (1, len(channels)):
                raise ValueError(f"{solver.name}: rows for {rows.shape[1]} channels in a group of {len(channels)}")
            weights[: len(rows), channels] = rows
    if not np.isfinite(weights).all():
        raise ValueError(f"the rows of step {target.step} are beyond the range of float32")
    return weights


def rows_at(
    past: Sequence[float],
    position: float,
    axis_times: Sequence[float],
    groups: Sequence[tuple[np.ndarray, Solver]],
    num_channels: int,
) -> np.ndarray:
    """Weights ``(tap, channel)`` over features of any steps, or of places between two.

    Args:
        past: where features were computed, in steps, newest first.
        position: the one to predict.
        axis_times: of every step.
    """
    past = past[: max(solver.depth for _, solver in groups)]
    times = np.interp([position, *past], np.arange(len(axis_times)), axis_times)
    instants = [Instant(round(p), float(t)) for p, t in zip(past, times[1:], strict=True)]
    return mixed_rows(instants, Instant(round(position), float(times[0])), groups, num_channels)
