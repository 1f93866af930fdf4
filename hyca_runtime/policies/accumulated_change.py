"""Computing when a probe has changed enough since the network was last computed."""

from __future__ import annotations

from typing import Any, NamedTuple

from hyca_runtime.moment import Moment
from hyca_runtime.policies.base import Evidence, ProbingPolicy
from hyca_runtime.schedule import COMPUTE, Action, Schedule


class Skipped(NamedTuple):
    """What happened since the network was last computed.

    Attributes:
        calls: that did not compute it.
        sums: of the changes of each sample; empty for none.
    """

    calls: int = 0
    sums: tuple[float, ...] = ()


class AccumulatedChange(ProbingPolicy):
    """Sums the probe's change from call to call, and computes once it reaches `threshold`.

    Each sample has a sum; the batch follows its most demanding sample.

    Attributes:
        threshold: a field of the dataclass; with 0 every call computes.
    """

    threshold: float

    def change(self, measured: float) -> float:
        """What a measured change adds to a sum, 0 or more."""
        return measured

    def forces(self, moment: Moment, skipped: int) -> bool:
        """Whether a call computes, whatever has changed.

        Args:
            skipped: calls since the network was last computed.
        """
        raise NotImplementedError

    def begin(self) -> Skipped:
        return Skipped()

    def decide(self, state: Any, moment: Moment, schedule: Schedule, evidence: Evidence = None) -> tuple[Action, Any]:
        if evidence is None or self.forces(moment, state.calls):
            return COMPUTE, Skipped()
        sums = state.sums or (0.0,) * len(evidence)
        sums = tuple(total + self.change(measured) for total, measured in zip(sums, evidence, strict=True))
        if not all(total < self.threshold for total in sums):  # a probe that is not a number, too
            return COMPUTE, Skipped()
        return self.forecasts(schedule), Skipped(state.calls + 1, sums)
