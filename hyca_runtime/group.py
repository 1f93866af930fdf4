"""Which feature dimensions share a solver."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
from pydantic import Field, field_validator

from hyca_runtime.plan_part import PlanPart

MAX_CHANNELS = 1 << 20
FITTED = ("fitted", "fitted_to_past")
"""Solvers that know steps of their plan alone."""


class SolverSpec(PlanPart):
    """A solver by name, with its settings: ``{"name": "newton", "configuration": {"order": 2}}``."""

    name: str
    configuration: dict[str, Any] = Field(default_factory=dict)


class DimensionGroup(PlanPart):
    """Feature dimensions with like dynamics, and the solver that predicts them.

    Attributes:
        name: for reports.
        channels: runs of indices, ``"0-5,8"``.
        solver: how the group is predicted.
        axis: what is grouped; only channels so far.
        fallback: closed form for times that are not the plan's own; needed where `solver` is fitted.
    """

    name: str
    channels: str
    solver: SolverSpec
    axis: Literal["channel"] = "channel"
    fallback: SolverSpec | None = None

    @field_validator("channels")
    @classmethod
    def _readable(cls, text: str) -> str:
        decode_channels(text)
        return text

    @property
    def closed_form(self) -> SolverSpec:
        """The solver for any times; linear extrapolation if a fitted group names none."""
        if self.fallback is None and self.solver.name in FITTED:
            return SolverSpec(name="newton", configuration={"order": 1})
        return self.fallback or self.solver

    @property
    def indices(self) -> np.ndarray:
        """Channel indices, ascending, with shape ``(width,)``."""
        return np.asarray(decode_channels(self.channels), dtype=np.int64)


def encode_channels(indices: Iterable[int]) -> str:
    """Ascending indices as runs: ``[0, 1, 2, 5]`` -> ``"0-2,5"``."""
    runs: list[list[int]] = []
    for i in sorted(indices):
        if runs and i == runs[-1][1] + 1:
            runs[-1][1] = i
        else:
            runs.append([i, i])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def decode_channels(text: str) -> list[int]:
    """Inverse of `encode_channels`.

    Raises:
        ValueError: not runs of ascending, non-negative integers.
    """
    indices: list[int] = []
    for run in text.split(","):
        first, _, last = run.partition("-")
        if not (first.isascii() and first.isdigit() and (last or first).isascii() and (last or first).isdigit()):
            raise ValueError(f"channels: expected runs like '0-5,8', got {run[:40]!r}")
        low, high = int(first), int(last or first)
        if high >= MAX_CHANNELS or high < low or (indices and low <= indices[-1]):
            raise ValueError(f"channels: runs must ascend, not overlap and stay below {MAX_CHANNELS}, got {run[:40]!r}")
        indices.extend(range(low, high + 1))
    return indices


def check_partition(groups: Sequence[DimensionGroup], num_channels: int) -> None:
    """Every channel must belong to exactly one group.

    Raises:
        ValueError: channels covered twice, left out, or beyond the last.
    """
    count = np.zeros(num_channels, dtype=np.int64)
    for group in groups:
        indices = group.indices
        if indices[-1] >= num_channels:
            raise ValueError(f"group {group.name!r} names channel {indices[-1]}, the model has {num_channels}")
        count[indices] += 1
    for wrong, verb in ((count > 1, "covered twice"), (count == 0, "covered by no group")):
        if wrong.any():
            raise ValueError(f"channels {encode_channels(np.flatnonzero(wrong).tolist())} are {verb}")
