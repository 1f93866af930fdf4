"""Reusing the output, the guidance difference or some blocks, whichever matters least (MixCache, arXiv 2508.12691)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

from hyca_runtime.moment import Moment
from hyca_runtime.policies.base import Evidence, LearningPolicy, Surprises, register_policy
from hyca_runtime.schedule import COMPUTE, EVERY, Action, Schedule

STEP, BRANCH, BLOCK = "step", "branch", "block"
"""Granularities; of equal ones the first is chosen."""
OUTPUT = "output"
"""The name of the point that steps and branches are forecast at; that of the blocks is `BLOCK`."""


class Mixed(NamedTuple):
    """What is remembered of a run.

    Attributes:
        interval: from one computed step to the next.
        position: the step that was decided about last.
        reuses: what it reuses, "" if it is computed.
        latest: what the latest step that reused something did.
        gap: what the steps since the latest computed one reused; of a computed step those before it.
        changes: of each granularity, at the latest computed step, how far off its reuse would have been.
    """

    interval: int
    position: float = -1.0
    reuses: str = ""
    latest: str = ""
    gap: tuple[str, ...] = ()
    changes: Mapping[str, float] = {}


@register_policy
@dataclass(frozen=True)
class MixedGranularity(LearningPolicy):
    r"""Computes at intervals, and reuses on each step between them what matters least.

    That is, of the granularities :math:`\psi`, the one with the least

    .. math:: P^\psi = D^\psi I^\psi,

    five times as much for the one that the reusing step before chose. :math:`D` is the relative change of what is
    reused between the two latest times it was computed, :math:`I` its impact, as measured beforehand. *step* leaves the
    whole network out and keeps its output; *branch* computes one guidance branch, and the others as far from it as they
    were; *block* keeps what a span of blocks adds. At each computed step the change of what was reused before it, by
    its impact over that of *step*, says how far reuse went astray: below a share of `threshold` the interval grows by a
    step, above `threshold` it shrinks by one.

    The plan's points are `OUTPUT`, ``output``, and perhaps `BLOCK`; its palette computes all, forecasts `BLOCK`,
    forecasts `OUTPUT`. All guidance branches of a step do the same, and of samples the most demanding one counts.

    References: MixCache, arXiv 2508.12691. It leaves the thresholds, the interval's bounds and the warm-up open.

    Args:
        threshold: delta 2 of the paper; with 0 every step is computed.
        impact: by granularity, of those that are there; *step* always is.
        lead: the guidance branch that is computed where *branch* is chosen; None without such a granularity.
        ratio: delta 1 over delta 2.
        warmup: leading steps that are computed; two are in any case.
        shortest, initial, longest: of the interval.
        penalty: the factor for repeating.
    """

    threshold: float
    impact: Mapping[str, float] = field(default_factory=lambda: {STEP: 1.0})
    lead: str | None = None
    ratio: float = 0.5
    warmup: int = 4
    shortest: int = 1
    initial: int = 2
    longest: int = 6
    penalty: float = 5.0
    name: ClassVar[str] = "mixed_granularity"
    joint: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "impact", dict(self.impact))
        known, told = {STEP, BRANCH, BLOCK}, f"{self.name}:"
        if not self.threshold >= 0:
            raise ValueError(f"{told} threshold must be 0 or more, got {self.threshold}")
        if STEP not in self.impact or not {*self.impact} <= known:
            raise ValueError(f"{told} expected impacts of 'step', perhaps 'branch' and 'block', got {[*self.impact]}")
        if not all(0 < value < math.inf for value in self.impact.values()):
            raise ValueError(f"{told} impacts must be positive, got {dict(self.impact)}")
        if (BRANCH in self.impact) != (self.lead is not None):
            raise ValueError(f"{told} an impact of 'branch' and a branch that leads go together, got {self.lead!r}")
        if not (0 <= self.ratio <= 1 and self.penalty >= 1):
            raise ValueError(f"{told} ratio must be from 0 to 1, penalty 1 or more, got {self.ratio}, {self.penalty}")
        whole = (self.warmup, self.shortest, self.initial, self.longest)
        if not all(type(n) is int for n in whole) or self.warmup < 0 or not 1 <= whole[1] <= whole[2] <= whole[3]:
            raise ValueError(f"{told} expected warmup >= 0 and 1 <= shortest <= initial <= longest, got {whole}")

    def check_points(self, places: Mapping[str, str], schedule: Schedule) -> None:
        names = [name for name in (BLOCK, OUTPUT) if name == OUTPUT or BLOCK in self.impact]
        if {*places} != {*names} or places[OUTPUT] != "output":
            raise ValueError(f"policy: {self.name!r} needs points {names}, 'output' at 'output', got {dict(places)}")
        if schedule.palette != (COMPUTE, *(Action(forecast=(name,)) for name in names)):
            raise ValueError(f"schedule.palette: {self.name!r} needs to compute, then to forecast each of {names}")
        if self.lead is not None and self.lead not in (branches := schedule.tables.keys() - {EVERY}):
            raise ValueError(
                f"policy: {self.name!r}: expected a lead that has a table in schedule.tables, {sorted(branches)}, "
                f"got {self.lead!r}; correct its name, or add its table"
            )

    def begin(self) -> Mixed:
        return Mixed(self.initial)

    def decide(self, state: Any, moment: Moment, schedule: Schedule, evidence: Evidence = None) -> tuple[Action, Any]:
        del evidence
        if moment.position != state.position:
            state = self._come_to(state, moment.position)
        leads = state.reuses == BRANCH and moment.branch == self.lead
        if not state.reuses or leads or moment.previous < 0:
            return COMPUTE, state
        return schedule.palette[1 if state.reuses == BLOCK else -1], state

    def wants(self, state: Any, moment: Moment) -> bool:
        return not state.reuses and moment.position == state.position

    def learn(self, state: Any, moment: Moment, surprises: Surprises) -> Any:
        output = STEP if self.lead in (None, moment.branch) else BRANCH
        found = dict(state.changes)
        for name, numbers in surprises.items():
            of = BLOCK if name == BLOCK else output
            found[of] = max(found.get(of, 0.0), *(math.inf if math.isnan(n) else n for n in numbers))
        return state._replace(changes=found)

    def _come_to(self, state: Mixed, position: float) -> Mixed:
        """The state at another step, of which it says what is reused."""
        interval, gap = (state.interval, state.gap) if state.reuses else (self._adapted(state), ())
        computes = not state.changes or self.threshold == 0 or position < self.warmup or len(gap) + 1 >= interval
        if computes:
            return Mixed(interval, position, "", state.latest, gap)
        least = self._least(state.changes, state.latest)
        return Mixed(interval, position, least, least, (*gap, least), state.changes)

    def _least(self, changes: Mapping[str, float], latest: str) -> str:
        known = [of for of in (STEP, BRANCH, BLOCK) if of in changes and of in self.impact]
        return min(known, key=lambda of: changes[of] * self.impact[of] * (self.penalty if of == latest else 1.0))

    def _adapted(self, state: Mixed) -> int:
        """The interval behind a computed step, by what was reused before it; the shortest by what would have been."""
        reused = state.gap or ([self._least(state.changes, "")] if state.changes and state.interval == 1 else [])
        astray = [state.changes[of] * self.impact[of] / self.impact[STEP] for of in reused if of in state.changes]
        if astray and max(astray) > self.threshold:
            return max(self.shortest, state.interval - 1)
        grows = bool(astray) and max(astray) < self.ratio * self.threshold
        return min(self.longest, state.interval + 1) if grows else state.interval
