"""DiCache, arXiv 2508.17356: the change of a shallow probe decides, its trajectory aligns the forecast."""

from dataclasses import dataclass, replace
from typing import ClassVar, Self

from hyca_calib.search.sources import DICACHE
from hyca_calib.search.step_caches.rule import Rule
from hyca_runtime.policies import ProbedChange
from hyca_runtime.solvers import Aligned


@dataclass(frozen=True)
class DiCache(Rule):
    """The settings of DiCache, but the threshold.

    Attributes:
        blocks: m, how many blocks are the probe.
        retained: rho, the share of the run that is computed at its start.
        last: whether the last step is computed.
        limit: largest gamma of the alignment; 1 is reuse.
    """

    blocks: int = 1
    retained: float = 0.2
    last: bool = False
    limit: float = 1.5
    preset: ClassVar[str] = DICACHE

    @classmethod
    def released(cls, transformer: str) -> Self:
        """The settings of the release for a class of networks, or those of HunyuanVideo."""
        known = {"FluxTransformer2DModel": cls(last=True), "WanTransformer3DModel": cls(limit=2.0)}
        return known.get(transformer, cls())

    @property
    def probes(self) -> int:
        return self.blocks

    @property
    def solver(self) -> Aligned:
        return Aligned(self.limit)

    def policy(self, threshold: float) -> ProbedChange:
        return ProbedChange(threshold, self.blocks, self.retained, self.last)

    def easier(self) -> tuple[Self, ...]:
        return (self, *(replace(self, retained=share) for share in (0.1, 0.05, 0.0) if share < self.retained))
