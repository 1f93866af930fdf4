"""DBCache of cache-dit: the change of the front blocks since the latest computed step decides about those behind."""

from dataclasses import dataclass, replace
from typing import ClassVar, Self

from torch import nn

from hyca_calib.search.sources import DBCACHE, FIRSTBLOCKCACHE
from hyca_calib.search.step_caches.rule import Rule
from hyca_runtime.attach.points import find_blocks
from hyca_runtime.point import CachePoint, parse_point
from hyca_runtime.policies import ChangeSinceComputed
from hyca_runtime.solvers import ClosedFormSolver, Hold, Taylor

FRONT, SHARE = 8, 7
"""As released, where that is at most a seventh of all blocks, as in FLUX; else a seventh."""


@dataclass(frozen=True)
class DBCache(Rule):
    """The settings of DBCache, but the threshold.

    Attributes:
        blocks: Fn, how many blocks always run.
        warmup: leading steps that are computed.
        order: of TaylorSeer's forecast; 0 is reuse.
    """

    blocks: int = 1
    warmup: int = 8
    order: int = 0
    preset: ClassVar[str] = DBCACHE

    @classmethod
    def released(cls, network: nn.Module, order: int) -> Self:
        """The settings of the release as they suit a network.

        Raises:
            AttachError: it has no list of blocks that are known.
        """
        return cls(max(1, min(FRONT, len(find_blocks(network)) // SHARE)), order=order)

    @property
    def probes(self) -> int:
        return self.blocks

    @property
    def point(self) -> CachePoint:
        return parse_point(f"behind:{self.blocks}")

    @property
    def solver(self) -> ClosedFormSolver:
        return Taylor(self.order) if self.order else Hold()

    def policy(self, threshold: float) -> ChangeSinceComputed:
        return ChangeSinceComputed(threshold, self.blocks, self.warmup)

    def easier(self) -> tuple[Self, ...]:
        return (self, *(replace(self, warmup=steps) for steps in (4, 2, 1) if steps < self.warmup))


@dataclass(frozen=True)
class FirstBlockCache(DBCache):
    """The settings of FirstBlockCache, but the threshold: one block always runs, and only the first step must."""

    warmup: int = 0
    preset: ClassVar[str] = FIRSTBLOCKCACHE
