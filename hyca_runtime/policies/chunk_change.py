"""Computing when what comes into the network has changed enough (FlowCache, arXiv 2602.10825)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from hyca_runtime.moment import Moment
from hyca_runtime.policies.accumulated_change import AccumulatedChange
from hyca_runtime.policies.base import register_policy
from hyca_runtime.schedule import Schedule


@register_policy
@dataclass(frozen=True)
class ChunkChange(AccumulatedChange):
    r"""Sums the relative change of the input from step to step, and computes once it reaches `threshold`.

    Of a video that is denoised in chunks each has a sum, and steps, of its own. The change is
    :math:`\lVert x_t - x_{t'} \rVert_1 / \lVert x_{t'} \rVert_1` to the step before, computed or not; it is known
    before the call. Each sample has a sum; the batch follows its most demanding sample.

    The release for SkyReels-V2 looks at the embedding of the time alone, so that what it decides is a fixed schedule of
    each grid: plans say that by their table.

    Args:
        threshold: epsilon of the paper; with 0 every step computes.
        warmup: leading steps of each chunk that are computed, m of the paper.
        probe: the latents, as in the paper, or their embedding, as in the release for MAGI-1.
        last: whether the last step of each chunk is computed, too.
    """

    threshold: float
    warmup: int = 5
    probe: Literal["latents", "embedding"] = "embedding"
    last: bool = True
    name: ClassVar[str] = "chunk_change"
    blocks = 0

    def __post_init__(self) -> None:
        if not self.threshold >= 0 or self.warmup < 1:
            told = f"got {self.threshold} and {self.warmup}"
            raise ValueError(f"chunk_change: threshold must be 0 or more, warmup a whole number, 1 or more, {told}")

    @property
    def looks_at(self) -> str:
        return self.probe

    def check_points(self, places: Mapping[str, str], schedule: Schedule) -> None:
        """Any one point is decided about."""
        del schedule
        if len(places) > 1:
            raise ValueError(f"policy: {self.name!r} needs one point, got {list(places.values())}")

    def forces(self, moment: Moment, skipped: int) -> bool:
        del skipped
        return moment.position < self.warmup or (self.last and moment.position >= moment.num_steps - 1)
