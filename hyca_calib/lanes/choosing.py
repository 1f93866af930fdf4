"""Lanes and plans that a surrogate ranks, and rollouts on the select split choose among."""

from collections.abc import Callable, Sequence
from typing import Self, get_args

from pydantic import BaseModel

from hyca_calib.lanes.joint import Joint, Search, Wall
from hyca_calib.lanes.measure import LaneRow
from hyca_calib.lanes.surrogate import Reaction
from hyca_runtime.samplers import Lanes
from hyca_runtime.samplers.following import Histories

ON_RANKS: tuple[Histories, ...] = ("kept", "dropped")
"""Ways of keeping histories that ask for nothing of another rank."""


class Proposed(BaseModel, frozen=True):
    """What the surrogate thinks best for a number of lanes and a wall.

    Attributes:
        heavy: passes, counted from 0, on which all lanes compute.
        error: squared, of the fast lane's sample on the samples that the surrogate knows.
    """

    num_steps: int
    starts: tuple[int, ...]
    heavy: tuple[int, ...]
    error: float

    @classmethod
    def of(cls, joint: Joint, error: float) -> Self:
        return cls(
            num_steps=joint.lanes.num_steps, starts=joint.lanes.starts, heavy=tuple(sorted(joint.heavy)), error=error
        )

    @property
    def joint(self) -> Joint:
        return Joint(Lanes(self.num_steps, self.starts), frozenset(self.heavy))


class Confirmed(BaseModel, frozen=True):
    """A proposal for a wall that was rolled out on the select split; of one lane, its plan alone."""

    wall: float
    proposed: Proposed
    histories: Histories
    row: LaneRow


def best_of(tried: Sequence[Confirmed], wall: float, lanes: range) -> Confirmed | None:
    """The best of so many lanes that ranks can run, whose fast one computes on no more passes than a wall allows."""
    within = [one for one in tried if one.wall == wall and len(one.proposed.starts) in lanes and _holds(one)]
    return max(within, key=lambda one: one.row.mean_db, default=None)


def _holds(one: Confirmed) -> bool:
    return one.row.computed_passes <= one.wall and one.histories in ON_RANKS


def propose(
    reaction: Reaction, wall: Wall, count: int, tries: int, on_progress: Callable[[int, float], None]
) -> Proposed:
    """The best so many lanes by the surrogate.

    Raises:
        SamplerError: the wall is too low even for all of them to begin.
    """
    return Proposed.of(*Search(reaction, wall, tries, on_progress=on_progress).best(count))


def ways_of(proposed: Proposed) -> Sequence[Histories]:
    """How histories may be kept: of one lane, which is never corrected, in one way."""
    return get_args(Histories) if _is_corrected(proposed.joint) else ("kept",)


def _is_corrected(joint: Joint) -> bool:
    lanes = joint.lanes
    return any(number <= joint.passes for lane in range(len(lanes)) for number in lanes.corrected(lane))
