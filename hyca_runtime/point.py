"""Where in the network a feature is kept and predicted."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import model_validator

from hyca_runtime.errors import PlanError
from hyca_runtime.plan_part import PlanPart

Kind = Literal[
    "trunk", "output", "leading", "behind", "span", "blocks", "attention", "cross_attention", "mlp", "modules"
]

RESIDUAL = ("leading", "behind", "blocks")
"""Kinds that are kept as a difference by their nature."""

CUT = ("leading", "behind")
"""Kinds that part the blocks in those that lead and the others."""

LAYERS = ("attention", "cross_attention", "mlp")
"""Kinds of layers inside blocks."""

NESTING = {"output": 3, "trunk": 2, "behind": 1}
"""Kinds that end at the network's own end: the higher, the more they leave out."""


class CachePoint(PlanPart):
    """The tensors of the network that stand for the work before them.

    ``trunk`` is the input of the final norm: on a predicted step no transformer block runs, while
    the final modulation and projection are live. Kept as residual it is what all blocks together
    add to the embedding of the latent, which is live, too. ``behind:3`` is what the blocks behind the third, across
    lists of blocks, add on the way to the final norm: the first three are live (what DBCache and FirstBlockCache
    reuse). ``leading:3`` is what those three add; forecasts of other points weigh it, it is never forecast itself.
    ``output`` is what the network returns: nothing runs at all. ``span`` is a run of neighbouring blocks, ``blocks``
    every block on its own (what the HyCa paper caches, as residuals), ``attention``, ``cross_attention`` and ``mlp``
    the layers of that kind of all blocks (SmoothCache) or of those whose path matches a pattern
    (``mlp:transformer_blocks.3``), ``modules`` all modules whose path matches a pattern
    (``transformer_blocks.*.attn``).

    A point may have several tensors, its *parts*: the streams of a block, or all blocks. Their
    channels are counted one after another.

    Attributes:
        kind: which tensors.
        path: of a span ``first..last``; of modules and layers a pattern as in `fnmatch`; leading and behind, the number
            of blocks that lead; else empty.
        keep: the tensor itself, or its difference to what went in; of ``leading``, ``behind`` and ``blocks`` always the
            difference.
        channel_axis: the axis of those tensors that counts feature dimensions.
    """

    kind: Kind = "trunk"
    path: str = ""
    keep: Literal["output", "residual"] = "output"
    channel_axis: int = -1

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, content: Any) -> Any:
        if isinstance(content, dict) and content.get("kind") in RESIDUAL:
            return {"keep": "residual", **content}
        return content

    @model_validator(mode="after")
    def _check(self) -> CachePoint:
        if self.kind in _EXAMPLES and not self.path:
            raise ValueError(f"path: a point of kind '{self.kind}' needs one, such as {_EXAMPLES[self.kind]!r}")
        if self.kind in ("trunk", "output", "blocks") and self.path:
            raise ValueError(f"path: a point of kind '{self.kind}' has none, got {self.path[:60]!r}")
        if self.kind == "span" and len(self.ends) != 2:
            raise ValueError(f"path: expected 'first..last', got {self.path[:60]!r}")
        if self.kind in CUT and not (self.path.isascii() and self.path.isdigit() and int(self.path) > 0):
            raise ValueError(f"path: expected the number of blocks that lead, 1 or more, got {self.path[:60]!r}")
        if self.kind == "output" and self.keep == "residual":
            raise ValueError("keep: a point of kind 'output' is kept as output")
        if self.kind in LAYERS and self.keep == "residual":
            raise ValueError(f"keep: a point of kind '{self.kind}' is kept as output")
        if self.kind in RESIDUAL and self.keep == "output":
            raise ValueError(
                f"keep: a point of kind '{self.kind}' is kept as residual; for what the blocks put out choose 'trunk'"
            )
        return self

    @property
    def skips_loop(self) -> bool:
        """Whether a predicted step leaves out the network's loop over its blocks, and what only that loop reads."""
        return self.kind in ("trunk", "output")

    @property
    def leading(self) -> int:
        """How many blocks lead at a point that parts them; 0 at others."""
        return int(self.path) if self.kind in CUT else 0

    def known_before(self, other: CachePoint) -> bool:
        """Whether a call that forecasts the `other` point has its tensors before that."""
        if self.kind != "leading" or other.keep != "residual":
            return False
        return other.kind == "trunk" or (other.kind == "behind" and self.leading <= other.leading)

    @property
    def ends(self) -> list[str]:
        """Paths of the first and the last module of a span."""
        return self.path.split("..")

    def stands_for(self, other: CachePoint) -> bool:
        """Whether what computes the `other` point may not run while this one is forecast."""
        if other.kind == "leading":
            return self.skips_loop or (self.kind == "behind" and self.leading < other.leading)
        if self.kind == "behind" and other.kind == "span":
            return other._blocks[2] >= self.leading  # of a later list it is counted anew: who binds both looks there
        if self == other or NESTING.keys() & {self.kind, other.kind}:
            return NESTING.get(self.kind, 0) >= NESTING.get(other.kind, 0)
        if self.kind == other.kind == "span":
            (own, low, high), (theirs, first, last) = self._blocks, other._blocks
            return own == theirs and low <= last and first <= high
        return self.kind == "span"

    def is_part_of(self, other: CachePoint) -> bool:
        """Whether the `other` point is not computed while this one is forecast: it does not run, or ends with it."""
        return self.stands_for(other) or (self.kind in NESTING and other.kind in NESTING)

    @property
    def _blocks(self) -> tuple[str, int, int]:
        """The list of blocks that a span lies in, and its ends there."""
        (owner, _, first), (_, _, last) = (end.rpartition(".") for end in self.ends)
        return owner, *((int(first), int(last)) if first.isdigit() and last.isdigit() else (0, 0))

    def __str__(self) -> str:
        """Inverse of `parse_point`."""
        text = f"{self.kind}:{self.path}" if self.path else self.kind
        return f"{text}:residual" if self.keep == "residual" and self.kind not in RESIDUAL else text


_EXAMPLES = {
    "leading": "3",
    "behind": "3",
    "span": "transformer_blocks.2..transformer_blocks.16",
    "modules": "transformer_blocks.*.attn",
}


def parse_point(text: str) -> CachePoint:
    """A point as written on a command line.

    >>> parse_point("trunk").kind
    'trunk'
    >>> parse_point("span:blocks.2..blocks.9:residual").keep
    'residual'

    Raises:
        PlanError: not one of ``trunk``, ``output``, ``leading:NUMBER``, ``behind:NUMBER``, ``blocks``,
            ``span:FIRST..LAST``, ``attention``, ``cross_attention``, ``mlp``, ``modules:PATTERN``; trunk, span and
            modules perhaps with ``:residual``.
    """
    kind, _, path = text.removesuffix(":residual").partition(":")
    keep = {"keep": "residual"} if text.endswith(":residual") else {}
    try:
        return CachePoint.model_validate({"kind": kind, "path": path, **keep})
    except ValueError as error:
        raise PlanError(
            f"point {text[:80]!r}: expected trunk, output, leading:NUMBER, behind:NUMBER, blocks, span:FIRST..LAST, "
            "attention, cross_attention, mlp or modules:PATTERN; trunk, span and modules perhaps with :residual"
        ) from error
