"""Computing the structure, then the detail, where what a block before each adds has changed (H2-Cache, 2510.27171)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any, ClassVar, Literal

from torch import Tensor
from torch.nn.functional import avg_pool2d

from hyca_runtime.moment import Moment
from hyca_runtime.policies.base import Evidence, ProbingPolicy, register_policy
from hyca_runtime.schedule import COMPUTE, Action, Schedule


def pooled(tokens: Tensor, number: int) -> Tensor:
    """Tokens averaged over squares of neighbouring tokens and channels, so that about `number` of them are left.

    Args:
        tokens: ``(sample, ..., channel)``; those of a sample are a picture of one row for each token.
    """
    rows = tokens.float().flatten(1, -2)
    side = max(1, min(rows.shape[1] // number, rows.shape[2]))
    return avg_pool2d(rows[:, None], side).squeeze(1)


@dataclass(frozen=True)
class PooledChange(ProbingPolicy):
    """Computes once what the probe adds, pooled, has relatively changed by `threshold` since it was last computed.

    Args:
        number: of tokens that pooling leaves, about.
    """

    threshold: float
    number: int
    blocks: int = 1
    name: ClassVar[str] = "pooled_change"
    since: ClassVar[Literal["call", "computed"]] = "computed"

    def look(self, probe: Tensor, added: Tensor, position: float) -> Tensor:
        del probe, position
        return pooled(added, self.number)

    def decide(self, state: Any, moment: Moment, schedule: Schedule, evidence: Evidence = None) -> tuple[Action, Any]:
        del moment
        near = evidence is not None and all(change < self.threshold for change in evidence)
        return (self.forecasts(schedule) if near else COMPUTE), state  # a probe that is not a number computes


@register_policy
@dataclass(frozen=True)
class HierarchicalChange(ProbingPolicy):
    """Decides about the structure, the blocks before `split`, and where that is computed about the detail behind.

    Each part begins with a probe, one block that always runs. Where what it adds, pooled, has relatively changed
    less than a threshold since the part was last computed, the rest of the part is forecast. Where the structure is,
    the detail is, too. The batch follows its most demanding sample.

    The plan's points are the structure, ``span:LIST.1..LIST.{split - 1}:residual``, and the detail,
    ``behind:{split + 1}``. Its palette computes all, or forecasts the detail, or both.

    Args:
        threshold: of the structure; with 0 every step is computed.
        split: how many blocks come before the detail, its probe not counted.
        ratio: threshold of the detail over that of the structure.
        blocks: how many blocks are a probe.
        tokens: that pooling leaves of the structure's probe and of the detail's.
    """

    threshold: float
    split: int
    ratio: float = 22 / 15
    blocks: int = 1
    tokens: tuple[int, int] = (2048, 384)
    name: ClassVar[str] = "hierarchical_change"
    since: ClassVar[Literal["call", "computed"]] = "computed"

    def __post_init__(self) -> None:
        self._check_probe(self.threshold)
        object.__setattr__(self, "tokens", tuple(self.tokens))
        if type(self.split) is not int or self.split <= self.blocks:
            raise ValueError(f"hierarchical_change: split must be a whole number above {self.blocks}, got {self.split}")
        if not self.ratio >= 0:
            raise ValueError(f"hierarchical_change: ratio must be 0 or more, got {self.ratio}")
        if len(self.tokens) != 2 or not all(type(number) is int and number > 0 for number in self.tokens):
            raise ValueError(f"hierarchical_change: tokens must be two whole numbers above 0, got {list(self.tokens)}")

    @property
    def behind(self) -> PooledChange:
        return PooledChange(self.threshold * self.ratio, self.tokens[1], self.blocks)

    def look(self, probe: Tensor, added: Tensor, position: float) -> Tensor:
        del probe, position
        return pooled(added, self.tokens[0])

    def decide(self, state: Any, moment: Moment, schedule: Schedule, evidence: Evidence = None) -> tuple[Action, Any]:
        del moment
        near = evidence is not None and all(change < self.threshold for change in evidence)
        return (max(schedule.palette, key=lambda action: len(action.forecast)) if near else COMPUTE), state

    def check_points(self, places: Mapping[str, str], schedule: Schedule) -> None:
        wanted = [f"span:*.{self.blocks}..*.{self.split - 1}:residual", f"behind:{self.split + self.blocks}"]
        fit = len(places) == 2 and all(map(fnmatchcase, places.values(), wanted))
        if not fit:
            raise ValueError(f"policy: {self.name!r} needs the points {wanted}, got {list(places.values())}")
        structure, detail = places
        palette = (COMPUTE, Action(forecast=(detail,)), Action(forecast=(structure, detail)))
        if schedule.palette != palette:
            told = [list(action.forecast) for action in palette]
            raise ValueError(f"schedule.palette: {self.name!r} needs actions that forecast {told}, in this order")
