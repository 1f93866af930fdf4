"""Computing when a probe has changed enough (DiCache, arXiv 2508.17356)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from hyca_runtime.moment import Moment
from hyca_runtime.policies.base import Evidence, ProbingPolicy, register_policy
from hyca_runtime.schedule import COMPUTE, Action, Schedule

Sums = tuple[float, ...]
"""Of each sample, since its network was last computed."""


@register_policy
@dataclass(frozen=True)
class ProbedChange(ProbingPolicy):
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
        if not self.threshold >= 0:
            raise ValueError(f"probed_change: threshold must be 0 or more, got {self.threshold}")
        if type(self.blocks) is not int or self.blocks < 1:
            raise ValueError(f"probed_change: blocks must be a whole number, 1 or more, got {self.blocks}")
        if not 0 <= self.retained <= 1:
            raise ValueError(f"probed_change: retained must be a share from 0 to 1, got {self.retained}")

    def begin(self) -> Sums:
        return ()

    def measure(self, probe: Tensor, before: Tensor) -> Tensor:
        probe, before = probe.float().flatten(1), before.float().flatten(1)
        return (probe - before).abs().mean(1) / before.abs().mean(1).clamp_min(1e-12)

    def decide(self, state: Sums, moment: Moment, schedule: Schedule, evidence: Evidence = None) -> tuple[Action, Sums]:
        ends = self.last and moment.position >= moment.num_steps - 1
        if evidence is None or moment.position < 1 + int(self.retained * moment.num_steps) or ends:
            return COMPUTE, ()
        sums = tuple(a + b for a, b in zip(state or (0.0,) * len(evidence), evidence, strict=True))
        if not all(total < self.threshold for total in sums):  # a probe that is not a number, too
            return COMPUTE, ()
        return next(action for action in schedule.palette if not action.computes), sums
