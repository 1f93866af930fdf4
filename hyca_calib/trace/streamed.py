"""Calls of a network that hold chunks of a video, each at a time of its own, taken apart."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from pydantic import BaseModel
from torch import Tensor, nn

from hyca_runtime.chunk_parts import ChunkCutter, frame_axis
from hyca_runtime.chunking import Chunking
from hyca_runtime.errors import TraceError
from hyca_runtime.feature import Feature
from hyca_runtime.fingerprint import config_digest
from hyca_runtime.stacked import Arguments

Which = Literal["all", "first", "later"]
"""Chunks of a video: the first looks at no other, and differs from those behind it."""

NEAR = 1.0001e-3
"""Relative difference of a chunk's time to the scheduler's: SkyReels-V2's pipeline begins at 999 for 1000."""


class TracedChunks(BaseModel, frozen=True):
    """The chunks of a video that a trace is of.

    Attributes:
        frames, lag: see `Chunking`.
        clip: how many a sample has.
        which: of them were recorded.
        config_digest: of the network as it is called, see `called_with`.
    """

    frames: int
    lag: int
    clip: int
    which: Which
    config_digest: str

    @property
    def from_chunk(self) -> int | None:
        """See `NetworkPlan`."""
        return 1 if self.which == "later" else None

    @property
    def count(self) -> int:
        """How many of a sample's chunks were recorded."""
        return {"all": self.clip, "first": 1, "later": self.clip - 1}[self.which]


class Piece(NamedTuple):
    """What a call holds of one chunk that is being denoised.

    Attributes:
        chunk, step: its number, and the step that it is at.
        time, scheduler_time: what the network is called with, and the scheduler's own.
        call: arguments of a call of this chunk alone.
        begin, end: its frames, as shares of the call's.
    """

    chunk: int
    step: int
    time: float
    scheduler_time: float
    call: Arguments
    begin: float
    end: float

    def of(self, features: Mapping[str, Feature | None]) -> dict[str, Any]:
        """What is the chunk's of the features of a call, by point.

        Raises:
            TraceError: they do not go frame by frame.
        """
        return {name: of and Feature(map(self._cut, of), of.form) for name, of in features.items()}

    def _cut(self, part: Tensor) -> Tensor:
        if (self.begin, self.end) == (0, 1):
            return part
        axis = frame_axis(part)
        begin, end = (share * part.shape[axis] for share in (self.begin, self.end))
        if part.ndim < 3 or max(abs(begin - round(begin)), abs(end - round(end))) > 1e-6:
            told = " x ".join(map(str, part.shape))
            raise TraceError(f"expected features in frames, got {told}; trace --point trunk, trunk:residual or output")
        return part.narrow(axis, round(begin), round(end) - round(begin))


class StreamedCalls:
    """The chunks of one run of a pipeline.

    Args:
        network: whose attention is causal over blocks of frames.
    """

    def __init__(self, network: nn.Module) -> None:
        self._network = network
        self._seen: list[Mapping[int, int]] = []
        self.frames = 0

    def clear(self) -> None:
        """Another run begins."""
        self._seen.clear()
        self.frames = 0

    def pieces(self, scheduler: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Piece]:
        """Those chunks of a call that are at a step; none where all of a call is at one time.

        Raises:
            TraceError: the network has no blocks, or the scheduler no times.
        """
        cutter = ChunkCutter(self._network, Chunking(frames=1), [])
        if not cutter.holds_chunks(args, kwargs):
            return []
        self.frames = int(getattr(getattr(self._network, "config", None), "num_frame_per_block", 1))
        times = getattr(scheduler, "timesteps", None)
        if self.frames < 2 or not isinstance(times, Tensor):
            raise TraceError(
                "frames with a time of their own each cannot be traced: expected blocks of two frames or more that "
                f"share one, over which attention is causal, got {self.frames}; call it with causal_block_size, or "
                "trace where all frames have one time"
            )
        cutter = ChunkCutter(self._network, Chunking(frames=self.frames), [])
        grid, parts, found = times.double().cpu(), cutter.cut(args, kwargs), list[Piece]()
        ends = [0, *torch.tensor([cutter.frames(part.call) for part in parts]).cumsum(0).tolist()]
        for i, part in enumerate(parts):
            step = int((grid - part.time).abs().argmin())
            if abs(float(grid[step]) - part.time) <= NEAR * abs(part.time):
                share = ends[i] / ends[-1], ends[i + 1] / ends[-1]
                found.append(Piece(part.number, step, part.time, float(grid[step]), part.call, *share))
        self._seen.append({piece.chunk: piece.step for piece in found})
        return found

    def chunks(self, which: Which) -> TracedChunks | None:
        """What was seen; None where all of each call was at one time.

        Raises:
            TraceError: only some chunks are asked for, and there are no several.
        """
        clip = 1 + max((chunk for steps in self._seen for chunk in steps), default=-1)
        if which != "all" and clip < 2:
            raise TraceError(f"--chunks {which}: expected a video of several chunks, got {max(clip, 1)}; leave it out")
        if not clip:
            return None
        digest = config_digest(self._network, num_frame_per_block=self.frames)
        return TracedChunks(frames=self.frames, lag=self._lag(), clip=clip, which=which, config_digest=digest)

    def _lag(self) -> int:
        """Where the first chunk was when the second came to a second step; 0 if that never waited for it."""
        steps = 1 + max(step for seen in self._seen for step in seen.values())
        before = [seen.get(0, steps) for seen in self._seen if seen.get(1) == 0]
        return before[-1] if len(set(before)) > 1 else 0


def is_asked(chunk: int, which: Which) -> bool:
    """Whether a chunk is to be recorded."""
    return which == "all" or (chunk == 0) == (which == "first")


def latest(calls: Sequence[Any]) -> list[Any]:
    """Of recorded calls of one branch, pass and step the last: a chunk that waits is called at its first step."""
    return [*{(call.branch, call.run, call.step): call for call in calls}.values()]
