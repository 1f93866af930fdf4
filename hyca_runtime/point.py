"""Where in the network a feature is kept and predicted."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, model_validator

from hyca_runtime.errors import PlanError

Kind = Literal["trunk", "output", "span", "blocks", "modules"]


class CachePoint(BaseModel):
    """The tensors of the network that stand for the work before them.

    ``trunk`` is the input of the final norm: on a predicted step no transformer block runs, while
    the final modulation and projection are live. Kept as residual it is what all blocks together
    add to the embedding of the latent, which is live, too. ``output`` is what the network returns: nothing
    runs at all. ``span`` is a run of neighbouring blocks, ``blocks`` every block on its own (what
    the HyCa paper caches, as residuals), ``modules`` all modules whose path matches a pattern
    (``transformer_blocks.*.attn``).

    A point may have several tensors, its *parts*: the streams of a block, or all blocks. Their
    channels are counted one after another.

    Attributes:
        kind: which tensors.
        path: of a span ``first..last``, of modules a pattern as in `fnmatch`, else empty.
        keep: the tensor itself, or its difference to what went in; of ``blocks`` always the difference.
        channel_axis: the axis of those tensors that counts feature dimensions.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    kind: Kind = "trunk"
    path: str = ""
    keep: Literal["output", "residual"] = "output"
    channel_axis: int = -1

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, content: Any) -> Any:
        if isinstance(content, dict) and content.get("kind") == "blocks":
            return {"keep": "residual", **content}
        return content

    @model_validator(mode="after")
    def _check(self) -> CachePoint:
        if self.kind in ("span", "modules") and not self.path:
            raise ValueError(f"path: a point of kind '{self.kind}' needs one, such as {_EXAMPLES[self.kind]!r}")
        if self.kind not in ("span", "modules") and self.path:
            raise ValueError(f"path: a point of kind '{self.kind}' has none, got {self.path[:60]!r}")
        if self.kind == "span" and len(self.ends) != 2:
            raise ValueError(f"path: expected 'first..last', got {self.path[:60]!r}")
        if self.kind == "output" and self.keep == "residual":
            raise ValueError("keep: a point of kind 'output' is kept as output")
        if self.kind == "blocks" and self.keep == "output":
            raise ValueError("keep: a point of kind 'blocks' is kept as residual; for what they put out choose 'trunk'")
        return self

    @property
    def skips_loop(self) -> bool:
        """Whether a predicted step leaves out the network's loop over its blocks, and what only that loop reads."""
        return self.kind in ("trunk", "output")

    @property
    def ends(self) -> list[str]:
        """Paths of the first and the last module of a span."""
        return self.path.split("..")

    def __str__(self) -> str:
        """Inverse of `parse_point`."""
        text = f"{self.kind}:{self.path}" if self.path else self.kind
        return f"{text}:residual" if self.keep == "residual" and self.kind != "blocks" else text


_EXAMPLES = {"span": "transformer_blocks.2..transformer_blocks.16", "modules": "transformer_blocks.*.attn"}


def parse_point(text: str) -> CachePoint:
    """A point as written on a command line.

    >>> parse_point("trunk").kind
    'trunk'
    >>> parse_point("span:blocks.2..blocks.9:residual").keep
    'residual'

    Raises:
        PlanError: not one of ``trunk``, ``output``, ``blocks``, ``span:FIRST..LAST``,
            ``modules:PATTERN``; trunk and the last two perhaps with ``:residual``.
    """
    kind, _, path = text.removesuffix(":residual").partition(":")
    keep = {"keep": "residual"} if text.endswith(":residual") else {}
    try:
        return CachePoint.model_validate({"kind": kind, "path": path, **keep})
    except ValueError as error:
        raise PlanError(
            f"point {text[:80]!r}: expected trunk, output, blocks, span:FIRST..LAST or modules:PATTERN, "
            "trunk and the last two perhaps with :residual"
        ) from error
