"""What is kept of the keys and values of chunks that are finished.

A retention is content of a plan: a name and settings, no code. It is a frozen dataclass; what is kept is a `Past` that
it is given and gives back, one for each layer, guidance branch and video. It is asked twice: when a chunk is finished
(`settle`), and in the attention of a later chunk, which has queries (`thin`).
"""

from __future__ import annotations

from abc import ABC
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal, NamedTuple

from pydantic import Field
from torch import Tensor

from hyca_runtime.plan_part import PlanPart
from hyca_runtime.registry import Registry
from hyca_runtime.streaming.importance import kept_tokens, scores
from hyca_runtime.streaming.segment import Segment, joined
from hyca_runtime.streaming.shares import halving_shares, quotas, token_order

retentions: Registry[type[Retention]] = Registry("retention", "hyca.retentions")


class Shape(NamedTuple):
    """Tokens of a chunk, in frames, rows and columns."""

    frames: int
    height: int
    width: int

    @property
    def frame(self) -> int:
        """Tokens of a frame."""
        return self.height * self.width

    @property
    def tokens(self) -> int:
        return self.frames * self.frame


class Finished(NamedTuple):
    """What is kept of one finished chunk, or of several up to that one."""

    chunk: int
    segment: Segment


Past = tuple[Finished, ...]
"""What is kept, the oldest first."""


def tokens_of(past: Sequence[Finished]) -> int:
    """How many tokens of each head are kept."""
    return sum(of.segment.tokens for of in past)


class RetentionSpec(PlanPart):
    """A retention by name, with its settings: ``{"name": "important", "configuration": {"budget": 2}}``."""

    name: str = "all"
    configuration: dict[str, Any] = Field(default_factory=dict)


class Retention(ABC):
    """Base of all retentions; subclasses are frozen dataclasses."""

    name: ClassVar[str]

    @property
    def anchored(self) -> int:
        """Leading chunks that nothing is dropped of, and that keep their time."""
        return 0

    def settle(self, past: Past, shape: Shape) -> Past:
        """What is kept once a chunk more is finished, the last of `past`; the whole past by default."""
        del shape
        return past

    def thin(self, past: Past, queries: Tensor, shape: Shape) -> Past:
        """What is kept when a chunk with such queries ``(batch, head, token, channel)`` attends to it."""
        del queries, shape
        return past

    def dropped(self, past: Past, shape: Shape) -> int:
        """How many frames behind the anchors are gone, so that what is behind is told to be so much earlier."""
        del past, shape
        return 0

    def spec(self) -> RetentionSpec:
        """This retention as it stands in a plan."""
        settings: dict[str, Any] = asdict(self)  # type: ignore[call-overload]
        told = {label: list(value) if isinstance(value, tuple) else value for label, value in settings.items()}
        return RetentionSpec(name=self.name, configuration=told)


def retention_from_spec(spec: RetentionSpec) -> Retention:
    """The retention a plan names.

    Raises:
        HycaError: unknown name.
        ValueError: settings it does not take or refuses.
    """
    try:
        return retentions[spec.name](**spec.configuration)
    except TypeError as error:
        raise ValueError(f"retention {spec.name!r} does not take {sorted(spec.configuration)}: {error}") from error


@dataclass(frozen=True)
class All(Retention):
    """Every key and value is kept."""

    name: ClassVar[str] = "all"


Asking = Literal["chunk", "frame", "token"]
LAST = 50
"""Queries that are asked by "token", as in the release."""


@dataclass(frozen=True)
class Important(Retention):
    """Once more than `budget` chunks are finished, so many tokens are kept: those that matter and repeat no others.

    Each layer and head keeps its own. The queries are of the chunk that attends. Of MAGI-1 the release keeps as many as
    leave one of its slots free; that is `budget` by another name.

    References: FlowCache, arXiv 2602.10825.

    Args:
        budget: chunks of tokens that are kept, 1 or more.
        weight: of the importance, lambda of the paper.
        pool: neighbours whose largest importance counts, an odd number.
        asked: which queries: all of the chunk, of its last frame, or the last 50.
        unit: whether single tokens are kept, or whole frames or chunks by their mean score.
    """

    budget: int
    weight: float = 0.07
    pool: int = 7
    asked: Asking = "chunk"
    unit: Asking = "token"
    name: ClassVar[str] = "important"

    def __post_init__(self) -> None:
        _check_whole(self.name, "budget", self.budget)
        _check_whole(self.name, "pool", self.pool)
        if not 0 <= self.weight <= 1 or self.pool % 2 == 0:
            raise ValueError(f"important: weight must be 0 to 1, pool odd, got {self.weight} and {self.pool}")
        if {self.asked, self.unit} - {"chunk", "frame", "token"}:
            raise ValueError(f"important: expected chunk, frame or token, got {self.asked!r} and {self.unit!r}")

    def thin(self, past: Past, queries: Tensor, shape: Shape) -> Past:
        budget = self.budget * shape.tokens
        if tokens_of(past) <= budget:
            return past
        whole = joined([of.segment for of in past])
        asked = {"chunk": queries.shape[2], "frame": shape.frame, "token": LAST}[self.asked]
        score = scores(queries[:, :, -asked:], whole.keys, self.weight, self.pool)
        unit = {"chunk": shape.tokens, "frame": shape.frame, "token": 1}[self.unit]
        return (Finished(past[-1].chunk, whole.taken(kept_tokens(score, budget, unit))),)


@dataclass(frozen=True)
class Packed(Retention):
    """Anchors are kept whole; of the chunks behind them fewer tokens the further back they are, of `window` at most.

    While all fit into the budget they are kept, too. Then each chunk gets its share, and is thinned to the next share
    whenever another is finished: at places of the picture that it kept before. What is left is told to be without gaps
    in time.

    References: PackCache, arXiv 2601.04359. It does not say which tokens of a frame stay; here that are places spread
    over the picture, the same in all frames, see `shares.site_order`.

    Args:
        budget: chunks of tokens that are kept beside the anchors, not only whole ones.
        window: the chunk furthest back that keeps any, W of the paper.
        anchors: leading chunks that are kept whole, such as a conditioning picture.
        shares: of the chunks 1 to `window` back; empty for the published ones. They need not sum to 1.
    """

    budget: float
    window: int
    anchors: int = 1
    shares: tuple[float, ...] = ()
    name: ClassVar[str] = "packed"

    def __post_init__(self) -> None:
        object.__setattr__(self, "shares", tuple(self.shares))
        _check_whole(self.name, "window", self.window)
        if not self.budget > 0 or self.anchors < 0:
            raise ValueError(f"packed: expected a budget above 0 and no fewer than 0 anchors, got {self.spec()}")
        rise = any(later > earlier for earlier, later in zip(self.shares, self.shares[1:], strict=False))
        if self.shares and (len(self.shares) != self.window or rise or not self.shares[0] > 0 or self.shares[-1] < 0):
            raise ValueError(
                f"packed: expected {self.window} shares, the first above 0, none larger than the one before and none "
                f"below 0, got {self.shares}"
            )

    @property
    def anchored(self) -> int:
        return self.anchors

    def settle(self, past: Past, shape: Shape) -> Past:
        anchors, behind = self._cut(past)
        budget = round(self.budget * shape.tokens)
        if tokens_of(behind) <= budget and len(behind) <= self.window:
            return past
        behind = behind[-self.window :]
        counts = quotas(self._shares(len(behind)), budget, shape.tokens)
        order = token_order(*shape)
        return (*anchors, *(_cut_to(of, n, order, shape) for of, n in zip(behind, reversed(counts), strict=True)))

    def dropped(self, past: Past, shape: Shape) -> int:
        anchors, behind = self._cut(past)
        return (behind[0].chunk - len(anchors)) * shape.frames if behind else 0

    def _cut(self, past: Past) -> tuple[Past, Past]:
        count = sum(of.chunk < self.anchors for of in past)
        return past[:count], past[count:]

    def _shares(self, chunks: int) -> Sequence[float]:
        """Those of so many chunks, the nearest first; in sum 1."""
        if not self.shares:
            return halving_shares(chunks)
        total = sum(self.shares[:chunks])
        return [share / total for share in self.shares[:chunks]]


def _cut_to(finished: Finished, count: int, order: Tensor, shape: Shape) -> Finished:
    """The first tokens of a chunk, in an order that it is brought into when it is cut first."""
    segment = finished.segment
    if count < segment.tokens == shape.tokens:
        segment = segment.sorted_by(order.to(segment.keys.device))
    return Finished(finished.chunk, segment.first(count))


def _check_whole(name: str, label: str, value: object) -> None:
    if type(value) is not int or value < 1:
        raise ValueError(f"{name}: {label} must be a whole number, 1 or more, got {value}")


for _kind in (All, Important, Packed):
    retentions.add(_kind.name, _kind)
