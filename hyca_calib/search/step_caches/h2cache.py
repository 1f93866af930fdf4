"""H2-Cache, arXiv 2510.27171: the blocks in two parts, of which each is decided about by its first block."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Self

from torch import nn

from hyca_calib.search.sources import H2CACHE
from hyca_calib.search.step_caches.rule import Rule
from hyca_runtime.attach.points import SIDE_LIST, find_blocks
from hyca_runtime.errors import AttachError
from hyca_runtime.point import CachePoint, parse_point
from hyca_runtime.policies import HierarchicalChange
from hyca_runtime.schedule import Action

STRUCTURE, DETAIL = "structure", "detail"
"""The names of the points in plans."""


@dataclass(frozen=True)
class H2Cache(Rule):
    """The settings of H2-Cache, but the threshold.

    Attributes:
        blocks: path of the list that the structure lies in.
        split: how many blocks come before the detail.
    """

    blocks: str
    split: int
    preset: ClassVar[str] = H2CACHE

    @classmethod
    def released(cls, network: nn.Module) -> tuple[Self, ...]:
        """The rule with each split that comes into question: where the first list ends, as in the release, and a third,
        half and two thirds of all blocks, where that lies within the list.

        Raises:
            AttachError: the network has too few blocks, or none that are known.
        """
        every = (place.path.rpartition(".")[0] for place in find_blocks(network))
        owners = [owner for owner in every if not SIDE_LIST.search(owner)]
        first, total = owners[0], len(owners)
        size = owners.count(first)
        splits = {size, round(total / 3), round(total / 2), round(2 * total / 3)}
        if found := sorted(split for split in splits if 2 <= split <= min(size, total - 2)):
            return tuple(cls(first, split) for split in found)
        raise AttachError(
            f"h2cache needs two blocks in the first list of {type(network).__name__} and two behind them; "
            f"{first} has {size} of {total}"
        )

    @property
    def probes(self) -> int:
        return 1

    @property
    def points(self) -> Mapping[str, CachePoint]:
        span = f"span:{self.blocks}.1..{self.blocks}.{self.split - 1}:residual"
        return {STRUCTURE: parse_point(span), DETAIL: parse_point(f"behind:{self.split + 1}")}

    @property
    def actions(self) -> tuple[Action, ...]:
        return Action(forecast=(DETAIL,)), Action(forecast=(STRUCTURE, DETAIL))

    def policy(self, threshold: float) -> HierarchicalChange:
        return HierarchicalChange(threshold, self.split)
