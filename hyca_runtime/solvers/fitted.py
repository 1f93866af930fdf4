"""Taps fitted to a model, one row for every predicted step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from hyca_runtime.group import SolverSpec
from hyca_runtime.solvers.base import Instant, Solver, register
from hyca_runtime.table import pack_table, unpack_table


@register
@dataclass(frozen=True, eq=False)
class Fitted(Solver):
    """A table of weights found offline: by least squares on a trace, or by gradient through rollouts.

    Args:
        steps: the predicted steps it knows, ascending.
        weights: ``(len(steps), depth, width)``, newest tap first; rows with a shorter history are
            padded with zeros. ``width`` is 1 for a row shared by the group, else one column a channel.
    """

    steps: tuple[int, ...]
    weights: np.ndarray
    name: ClassVar[str] = "fitted"
    exact_degree: ClassVar[int] = -1

    def __post_init__(self) -> None:
        object.__setattr__(self, "steps", tuple(self.steps))
        object.__setattr__(self, "weights", unpack_table(self.weights))
        if self.weights.ndim != 3 or len(self.steps) != len(self.weights) or 0 in self.weights.shape[1:]:
            raise ValueError(
                f"fitted: expected weights (steps={len(self.steps)}, taps, width), got shape {self.weights.shape}"
            )
        if list(self.steps) != sorted(set(self.steps)):
            raise ValueError(f"fitted: expected ascending steps, each once, got {list(self.steps)}")

    @property
    def depth(self) -> int:
        return int(self.weights.shape[1])

    def rows(self, past: Sequence[Instant], target: Instant) -> np.ndarray:
        if target.step not in self.steps:
            raise ValueError(f"fitted: no taps for step {target.step}, only for {list(self.steps)}")
        used = min(len(past), self.depth)
        return np.asarray(self.weights[self.steps.index(target.step), :used])

    def spec(self) -> SolverSpec:
        return SolverSpec(
            name=self.name,
            configuration={"steps": list(self.steps), "weights": pack_table(self.weights)},
        )
