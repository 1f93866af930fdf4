"""Reuse of a sampler's latest move (FlowCache for MAGI-1, arXiv 2602.10825)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from hyca_runtime.solvers.base import Instant, Solver, register


@register
@dataclass(frozen=True)
class Increment(Solver):
    r"""The velocity that moves the latents as the newest computed one did, however long the step is now.

    A sampler that adds :math:`v_t \Delta_t` and then again what it added is one that takes
    :math:`\hat v_t = v_{t'} \Delta_{t'} / \Delta_t`. Where moves grow, a step falls short by their ratio: it is here
    for comparison with `Hold`, the reuse of the velocity, which is exact on a straight path.

    Args:
        moves: of time, what the sampler multiplies the output with on each step; none is 0.
    """

    moves: tuple[float, ...]
    name: ClassVar[str] = "increment"
    depth: ClassVar[int] = 1
    exact_degree: ClassVar[int] = -1
    for_any_past: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "moves", tuple(self.moves))
        if not self.moves or 0 in self.moves or not np.isfinite(self.moves).all():
            raise ValueError(f"increment: expected the move of every step, none of them 0, got {list(self.moves)}")

    def rows(self, past: Sequence[Instant], target: Instant) -> np.ndarray:
        if max(past[0].step, target.step) >= len(self.moves):
            raise ValueError(f"increment: no move of step {target.step}, only of {len(self.moves)} steps")
        return np.array([[self.moves[past[0].step] / self.moves[target.step]]])
