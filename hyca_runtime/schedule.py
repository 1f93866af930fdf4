"""When the network is computed: one action for every step of the sampler."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from pydantic import BaseModel, ConfigDict, model_validator

from hyca_runtime.errors import PlanError


class Action(BaseModel):
    """What is done on a step. There is one network to do it with, the "default"; another `variant` is refused."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    kind: Literal["compute", "predict"]
    variant: Literal["default"] = "default"


COMPUTE = Action(kind="compute")
PREDICT = Action(kind="predict")


class Schedule(BaseModel):
    """A palette of actions and, for each step, an index into it."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    palette: tuple[Action, ...]
    table: tuple[int, ...]

    @model_validator(mode="after")
    def _check(self) -> Schedule:
        if not self.table:
            raise ValueError("table: expected one entry per step, got none")
        bad = [i for i in self.table if not 0 <= i < len(self.palette)]
        if bad:
            raise ValueError(f"table: entry {bad[0]} is outside the palette of {len(self.palette)} actions")
        if self[0].kind != "compute":
            raise ValueError("table: step 0 must be computed, there is no history to predict it from")
        return self

    @classmethod
    def from_steps(cls, num_steps: int, computed: Iterable[int]) -> Schedule:
        """Compute exactly the steps in `computed`.

        Raises:
            PlanError: a step lies outside ``0 .. num_steps - 1``, or 0 is missing.
        """
        chosen = set(computed)
        outside = sorted(s for s in chosen if not 0 <= s < num_steps)
        if outside or 0 not in chosen:
            raise PlanError(f"computed steps must contain 0 and lie in 0..{num_steps - 1}, got {sorted(chosen)}")
        return cls(palette=(COMPUTE, PREDICT), table=tuple(int(s not in chosen) for s in range(num_steps)))

    @classmethod
    def every(cls, num_steps: int, interval: int, warmup: int = 1) -> Schedule:
        """Compute the first `warmup` steps, then every `interval`-th: the rule of TaylorSeer and HyCa."""
        return cls.from_steps(num_steps, [*range(min(warmup, num_steps)), *range(warmup - 1, num_steps, interval)])

    def __getitem__(self, step: int) -> Action:
        return self.palette[self.table[step]]

    @property
    def num_steps(self) -> int:
        return len(self.table)

    @property
    def computed_steps(self) -> tuple[int, ...]:
        """Steps on which the network is computed, in order."""
        return tuple(s for s in range(self.num_steps) if self[s].kind == "compute")

    @property
    def predicted_steps(self) -> tuple[int, ...]:
        """Steps on which its feature is predicted, in order."""
        return tuple(s for s in range(self.num_steps) if self[s].kind == "predict")

    def history(self, step: int, depth: int) -> tuple[int, ...]:
        """The at most `depth` last computed steps before `step`, newest first."""
        return tuple(s for s in reversed(self.computed_steps) if s < step)[:depth]
