"""Taps fitted to a model, one row for every past that runs have met."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import ClassVar

import numpy as np

from hyca_runtime.group import SolverSpec
from hyca_runtime.solvers.base import Instant, Solver, register
from hyca_runtime.solvers.newton import Newton
from hyca_runtime.table import pack_table, unpack_table

UNKNOWN = Newton(1)
"""What forecasts from a past of which nothing is known."""


@register
@dataclass(frozen=True, eq=False)
class FittedToPast(Solver):
    """A table of weights found offline for plans whose policy decides in each run what is computed.

    The row serves whose past is the longest beginning of the one that is met; linear extrapolation where none is.

    Args:
        pasts: of each row the step that it forecasts, then the computed steps that it weighs, newest first.
        weights: ``(len(pasts), depth, width)``; rows with a shorter past are padded with zeros. ``width`` is 1 for a
            row shared by the group, else one column a channel.
    """

    pasts: tuple[tuple[int, ...], ...]
    weights: np.ndarray
    name: ClassVar[str] = "fitted_to_past"
    exact_degree: ClassVar[int] = -1
    for_any_past: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "pasts", tuple(map(tuple, self.pasts)))
        object.__setattr__(self, "weights", unpack_table(self.weights))
        if self.weights.ndim != 3 or len(self.pasts) != len(self.weights) or 0 in self.weights.shape[1:]:
            wanted, got = f"(pasts={len(self.pasts)}, taps, width)", self.weights.shape
            raise ValueError(f"{self.name}: expected weights {wanted}, got shape {got}")
        for past in self.pasts:
            falls = all(a > b for a, b in pairwise(past))
            if not 2 <= len(past) <= 1 + self.weights.shape[1] or not falls or past[-1] < 0:
                wanted = f"a step and at most {self.weights.shape[1]} earlier ones, newest first"
                raise ValueError(f"{self.name}: expected {wanted}, got {list(past)}")
        if len(self._places) < len(self.pasts):
            raise ValueError(f"{self.name}: a past has two rows")

    @cached_property
    def _places(self) -> dict[tuple[int, ...], int]:
        return {past: place for place, past in enumerate(self.pasts)}

    @property
    def depth(self) -> int:
        return max(int(self.weights.shape[1]), UNKNOWN.depth)

    def place(self, past: Sequence[int], target: int) -> int | None:
        """The row that serves a past, of computed steps newest first; None if none does."""
        longest = min(len(past), self.weights.shape[1])
        known = (self._places.get((target, *past[:length])) for length in range(longest, 0, -1))
        return next((place for place in known if place is not None), None)

    def rows(self, past: Sequence[Instant], target: Instant) -> np.ndarray:
        place = self.place([instant.step for instant in past], target.step)
        if place is None:
            return UNKNOWN.rows(past, target)
        return np.asarray(self.weights[place, : len(self.pasts[place]) - 1])

    def spec(self) -> SolverSpec:
        pasts = [list(past) for past in self.pasts]
        return SolverSpec(name=self.name, configuration={"pasts": pasts, "weights": pack_table(self.weights)})
