"""Computing when what a probe adds differs enough from that of the latest computed call (DBCache of cache-dit)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from hyca_runtime.moment import Moment
from hyca_runtime.policies.base import Evidence, ProbingPolicy, register_policy
from hyca_runtime.schedule import COMPUTE, Action, Schedule


@register_policy
@dataclass(frozen=True)
class ChangeSinceComputed(ProbingPolicy):
    """Computes once what the probe adds has relatively changed by `threshold` since the latest computed call.

    The batch follows its most demanding sample.

    Args:
        threshold: with 0 every step is computed.
        blocks: how many blocks are the probe; Fn of the release.
        warmup: leading steps of the run that are computed.
        consecutive: most calls in a row that are not computed; None for any number.
    """

    threshold: float
    blocks: int = 1
    warmup: int = 1
    consecutive: int | None = None
    name: ClassVar[str] = "change_since_computed"
    since: ClassVar[Literal["call", "computed"]] = "computed"

    def __post_init__(self) -> None:
        self._check_probe(self.threshold)
        if self.warmup < 0 or (self.consecutive is not None and self.consecutive < 1):
            told = f"got {self.warmup} and {self.consecutive}"
            raise ValueError(f"change_since_computed: warmup must be 0 or more, consecutive 1 or more or None, {told}")

    def begin(self) -> int:
        return 0

    def look(self, probe: Tensor, added: Tensor, position: float) -> Tensor:
        del probe, position
        return added

    def decide(self, state: int, moment: Moment, schedule: Schedule, evidence: Evidence = None) -> tuple[Action, int]:
        often = self.consecutive is not None and state >= self.consecutive
        if evidence is None or moment.position < self.warmup or often:
            return COMPUTE, 0
        if not all(change < self.threshold for change in evidence):  # a probe that is not a number, too
            return COMPUTE, 0
        return self.forecasts(schedule), state + 1
