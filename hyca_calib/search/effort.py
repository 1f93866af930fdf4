"""How hard a plan is looked for, in counts of work: the same on every machine, however fast or busy it is."""

from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, Self

from hyca_runtime.errors import StudyError

EffortName = Literal["quick", "standard", "thorough"]


@dataclass(frozen=True)
class Effort:
    """What every stage of a calibration does.

    Attributes:
        samples: traced in all, see `Workload`.
        probes: see `SearchOptions`.
        trials: see `Tuning`.
        rollouts: see `RolloutLimits`; for every budget, as what follows.
        iterations, batch: see `Refinement`.
        fresh: full runs beyond the trace that refinement learns from, for all budgets together, see `FreshRuns`.
        share: of the counts that its name stands for, all but the batch; less than 1 after a cut.
    """

    name: EffortName
    samples: int
    probes: int
    trials: int
    rollouts: int
    iterations: int
    batch: int
    fresh: int = 0
    share: float = 1.0

    def cut(self, share: float) -> Self:
        """As much of every count as `share` says, but no less than `LEAST` unless it was less before."""
        counts = {name: (getattr(self, name), least) for name, least in LEAST.items()}
        less = {name: max(min(least, count), round(share * count)) for name, (count, least) in counts.items()}
        return replace(self, share=self.share * share, **less)

    def started(self, probed: bool) -> Self:
        """What is left to do where a search starts from an earlier plan.

        Args:
            probed: whether the plan tells how errors are damped.
        """
        less = self.cut(STARTED)
        return replace(less, probes=0) if probed else less

    @property
    def told(self) -> dict[str, Any]:
        """The counts by name, for JSON."""
        return asdict(self)

    def differing(self, other: Self) -> str:
        """The counts of which `other` has more or fewer, in words."""
        pairs = [(field.name, getattr(self, field.name), getattr(other, field.name)) for field in fields(self)]
        return ", ".join(f"{name} {one} -> {two}" for name, one, two in pairs if one != two and name != "share")


STARTED = 0.25
"""Share of an effort that is left where an earlier plan is at hand."""

LEAST = {"samples": 14, "probes": 8, "trials": 2, "rollouts": 4, "iterations": 4, "fresh": 0}
"""Counts below which a stage tells nothing, or does more harm than good."""

EFFORTS: dict[str, Effort] = {
    "quick": Effort("quick", samples=28, probes=16, trials=12, rollouts=12, iterations=24, batch=8, fresh=36),
    "standard": Effort("standard", samples=112, probes=32, trials=40, rollouts=32, iterations=72, batch=12, fresh=96),
    "thorough": Effort(
        "thorough", samples=224, probes=64, trials=120, rollouts=160, iterations=480, batch=16, fresh=384
    ),
}
"""By name. `standard` is what a few minutes were enough for on the embedded `demo`; `quick` is for a first look."""


def effort_named(name: str) -> Effort:
    """One of `EFFORTS`.

    Raises:
        StudyError: there is none of that name.
    """
    if name not in EFFORTS:
        raise StudyError(f"effort {name!r}: expected {', '.join(EFFORTS)}")
    return EFFORTS[name]
