"""FlowCache, arXiv 2602.10825: of a video in chunks the change of each one's input decides about that chunk."""

from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self

import numpy as np

from hyca_calib.search.problem import Problem
from hyca_calib.search.sources import FLOWCACHE
from hyca_calib.search.step_caches.rule import ALL_BLOCKS, Rule
from hyca_runtime.errors import TraceError
from hyca_runtime.point import CachePoint
from hyca_runtime.policies import ChunkChange
from hyca_runtime.solvers import Hold, Increment


@dataclass(frozen=True)
class FlowCache(Rule):
    """The settings of FlowCache, but the threshold.

    Attributes:
        at: what is reused: what all blocks add, as released for SkyReels-V2, or the network's output.
        moves: of time, where the latest move of the latents is reused, as released for MAGI-1, and not the output,
            their velocity; empty for that.
        warmup: leading steps of each chunk that are computed.
        probe: what changes, see `ChunkChange`.
    """

    at: CachePoint = ALL_BLOCKS
    moves: tuple[float, ...] = ()
    warmup: int = 5
    probe: Literal["latents", "embedding"] = "embedding"
    preset: ClassVar[str] = FLOWCACHE

    @classmethod
    def released(cls, problem: Problem) -> tuple[Self, ...]:
        """Every form of reuse at the points of a trace.

        Raises:
            TraceError: it is of none of them.
        """
        moves, found = tuple(np.diff(problem.trace.sigmas).tolist()), list[Self]()
        for point in problem.trace.points:
            if point.kind == "output":
                found += [cls(point), cls(point, moves)]
            elif (point.kind, point.keep) == (ALL_BLOCKS.kind, ALL_BLOCKS.keep):
                found.append(cls(point))
        if not found:
            there = ", ".join(map(str, problem.trace.points))
            raise TraceError(f"flowcache reuses trunk:residual or output, the trace is of {there}; trace one of those")
        return tuple(found)

    @property
    def probes(self) -> int:
        return 0

    @property
    def looks(self) -> bool:
        return True

    @property
    def point(self) -> CachePoint:
        return self.at

    @property
    def solver(self) -> Hold | Increment:
        return Increment(self.moves) if self.moves else Hold()

    def policy(self, threshold: float) -> ChunkChange:
        return ChunkChange(threshold, self.warmup, self.probe)

    def easier(self) -> tuple[Self, ...]:
        return (self, *(replace(self, warmup=steps) for steps in (3, 2, 1) if steps < self.warmup))
