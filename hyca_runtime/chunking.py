"""How a plan says that a long video is denoised chunk by chunk."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

from pydantic import Field, model_validator

from hyca_runtime.errors import HycaError
from hyca_runtime.plan_part import PlanPart
from hyca_runtime.point import CachePoint
from hyca_runtime.streaming.retention import Retention, RetentionSpec, retention_from_spec


class Chunking(PlanPart):
    """How calls of a network hold a video: some frames after the other, each chunk at a step of its own.

    With `keys` a call is made chunk by chunk, and each attends to kept keys and values of those before it: what a
    network that looks at no later chunk computes at once, to rounding, and chunks may be computed or forecast each on
    its own. A chunk that is finished is computed once more, without noise, and then rests until its latents or its
    prompt are others; one that waits is not computed. Without, a call is computed if any chunk of it is to be, and
    otherwise all are forecast, each from its own past.

    Attributes:
        frames: of a chunk, as the network has timesteps for them.
        lag: the step that a chunk has come to when the next begins; 0 where all begin at once, or each says itself.
        keys: what is kept of finished chunks.
    """

    frames: int = Field(ge=1)
    lag: int = Field(default=0, ge=0)
    keys: RetentionSpec | None = None

    @model_validator(mode="after")
    def _check(self) -> Chunking:
        try:
            _ = self.retention
        except HycaError as error:
            raise ValueError(str(error)) from error
        return self

    @cached_property
    def retention(self) -> Retention | None:
        """What is kept of finished chunks, None if calls are not made chunk by chunk."""
        return None if self.keys is None else retention_from_spec(self.keys)

    def check(self, whole: bool, blocks: int, places: Mapping[str, CachePoint]) -> None:
        """Raises ValueError if a section cannot be followed so.

        Args:
            whole: whether guidance branches of a call are remembered together.
            blocks: how many of a call run before it decides or forecasts.
            places: of the points, by name.
        """
        if not whole:
            raise ValueError("chunks: guidance branches that share a call cannot have steps of their own beside chunks")
        if self.keys is None and (blocks or not all(place.skips_loop for place in places.values())):
            raise ValueError(
                "chunks: where they share a call, no block may run on a predicted step, or chunks that wait would be "
                "looked at; forecast the trunk or the output, or give the chunks keys"
            )

    def __eq__(self, other: object) -> bool:
        """Equal fields; what is cached does not count."""
        return isinstance(other, Chunking) and self.model_dump() == other.model_dump()

    __hash__ = None  # type: ignore[assignment]
