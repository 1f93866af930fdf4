"""Computing when a probe has changed enough (DiCache, arXiv 2508.17356)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hyca_runtime.moment import Moment
from hyca_runtime.policies.accumulated_change import AccumulatedChange
from hyca_runtime.policies.base import register_policy


@register_policy
@dataclass(frozen=True)
class ProbedChange(AccumulatedChange):
    """Sums the probe's relative change from call to call, and computes once it reaches `threshold`.

    Each sample has a sum; the batch follows its most demanding sample (the release takes the mean over the batch).

    Args:
        threshold: delta of the paper.
        blocks: how many blocks are the probe; m of the paper.
        retained: share of the run, from its start, that is computed; rho of the paper.
        last: whether the last step is computed, too, as the release does for FLUX.
    """

    threshold: float
    blocks: int = 1
    retained: float = 0.2
    last: bool = True
    name: ClassVar[str] = "probed_change"

    def __post_init__(self) -> None:
        self._check_probe(self.threshold)
        if not 0 <= self.retained <= 1:
            raise ValueError(f"probed_change: retained must be a share from 0 to 1, got {self.retained}")

    def forces(self, moment: Moment, skipped: int) -> bool:
        del skipped
        ends = self.last and moment.position >= moment.num_steps - 1
        return ends or moment.position < 1 + int(self.retained * moment.num_steps)
