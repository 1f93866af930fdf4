"""When the network is computed, and how much of it: one action for every step of the sampler."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from pydantic import model_validator

from hyca_runtime.errors import PlanError
from hyca_runtime.plan_part import PlanPart

EVERY = "*"
"""Any guidance branch that is not named."""

FEATURE = "feature"
"""What the point of a plan with a single one is called."""

DEFAULT = "default"
"""The network's own weights."""


class Action(PlanPart):
    """What one call of the network does.

    Attributes:
        forecast: names of the points whose tensors are forecast. Nothing that only serves them runs; all else does.
        variant: which weights compute the rest: the network's own, or a version of them that the plan names.
    """

    forecast: tuple[str, ...] = ()
    variant: str = DEFAULT

    @model_validator(mode="after")
    def _check(self) -> Action:
        if len(set(self.forecast)) < len(self.forecast):
            raise ValueError(f"forecast: a point is named twice in {list(self.forecast)}")
        return self

    @property
    def computes(self) -> bool:
        """Whether all of the network runs."""
        return not self.forecast


COMPUTE = Action()


class Schedule(PlanPart):
    """A palette of actions and, for each step, an index into it.

    Attributes:
        tables: one index for every step, by guidance branch; that of `EVERY` is for branches that are not named.
    """

    palette: tuple[Action, ...]
    tables: dict[str, tuple[int, ...]]

    @model_validator(mode="after")
    def _check(self) -> Schedule:
        if EVERY not in self.tables:
            raise ValueError(f"tables: expected one for {EVERY!r}, the branches that are not named")
        for branch, table in self.tables.items():
            if not table:
                raise ValueError(f"tables.{branch}: expected one entry per step, got none")
            if len(table) != self.num_steps:
                raise ValueError(f"tables.{branch}: expected {self.num_steps} steps as in the others, got {len(table)}")
            bad = [i for i in table if not 0 <= i < len(self.palette)]
            if bad:
                raise ValueError(
                    f"tables.{branch}: entry {bad[0]} is outside the palette of {len(self.palette)} actions"
                )
            if not self.palette[table[0]].computes:
                raise ValueError(f"tables.{branch}: step 0 must be computed, there is no history to forecast it from")
        return self

    @classmethod
    def from_steps(cls, num_steps: int, computed: Iterable[int], point: str = FEATURE) -> Schedule:
        """Compute exactly the steps in `computed`, and forecast one point on the others.

        Raises:
            PlanError: a step lies outside ``0 .. num_steps - 1``, or 0 is missing.
        """
        chosen = set(computed)
        outside = sorted(s for s in chosen if not 0 <= s < num_steps)
        if outside or 0 not in chosen:
            raise PlanError(f"computed steps must contain 0 and lie in 0..{num_steps - 1}, got {sorted(chosen)}")
        table = tuple(int(s not in chosen) for s in range(num_steps))
        return cls(palette=(COMPUTE, Action(forecast=(point,))), tables={EVERY: table})

    @classmethod
    def every(cls, num_steps: int, interval: int, warmup: int = 1, point: str = FEATURE) -> Schedule:
        """Compute the first `warmup` steps, then every `interval`-th: the rule of TaylorSeer and HyCa."""
        steps = [*range(min(warmup, num_steps)), *range(warmup - 1, num_steps, interval)]
        return cls.from_steps(num_steps, steps, point)

    def __hash__(self) -> int:
        return hash((self.palette, *sorted(self.tables.items())))

    def actions(self, branch: str = EVERY) -> tuple[Action, ...]:
        """What each step of a guidance branch does."""
        return tuple(self.palette[i] for i in self.tables.get(branch, self.tables[EVERY]))

    def of(self, branch: str) -> Schedule:
        """What it is for one guidance branch."""
        return Schedule(palette=self.palette, tables={EVERY: self.tables.get(branch, self.tables[EVERY])})

    @property
    def apart(self) -> tuple[str, ...]:
        """Guidance branches that have steps of their own; `EVERY` where none has."""
        return tuple(branch for branch in self.tables if branch != EVERY) or (EVERY,)

    def cost_ratio(self, costs: Sequence[float]) -> float | None:
        """What the full run costs over what this does; None where it does not say what all branches do.

        Args:
            costs: of each action of the palette, all guidance branches together.
        """
        full = self.palette.index(COMPUTE) if COMPUTE in self.palette else self.tables[EVERY][0]
        named = {branch: table for branch, table in self.tables.items() if branch != EVERY}
        if named and self.tables[EVERY] not in named.values():
            return None
        tables = [*named.values()] or [self.tables[EVERY]]  # where one repeats a named one, all branches have names
        spent = sum(costs[action] for table in tables for action in table) / len(tables)
        return costs[full] * self.num_steps / spent

    def steps_of(self, point: str, branch: str = EVERY) -> tuple[int, ...]:
        """Steps on which a point is forecast for a guidance branch, in order."""
        return tuple(step for step, action in enumerate(self.actions(branch)) if point in action.forecast)

    def turn(self, variant: str, position: float) -> int:
        """On how many steps before a position some guidance branch runs a variant."""
        tables = self.tables.values()
        return sum(any(self.palette[t[s]].variant == variant for t in tables) for s in range(math.ceil(position)))

    @property
    def num_steps(self) -> int:
        return len(self.tables[EVERY])

    @property
    def computed_steps(self) -> tuple[int, ...]:
        """Steps on which all of the network runs for all branches, in order."""
        return tuple(s for s in range(self.num_steps) if all(self.palette[t[s]].computes for t in self.tables.values()))

    @property
    def predicted_steps(self) -> tuple[int, ...]:
        """The other steps, in order."""
        computed = set(self.computed_steps)
        return tuple(s for s in range(self.num_steps) if s not in computed)

    def history(self, step: int, depth: int) -> tuple[int, ...]:
        """The at most `depth` last computed steps before `step`, newest first."""
        return tuple(s for s in reversed(self.computed_steps) if s < step)[:depth]
