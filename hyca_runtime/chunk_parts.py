"""Cutting a call of a network into the chunks of its video, and joining the answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from hyca_runtime.attach.clock import Arguments as Names
from hyca_runtime.chunking import Chunking
from hyca_runtime.plan_facts import TimeGrid
from hyca_runtime.stacked import Arguments
from hyca_runtime.streaming.key_store import Observer

LATENTS, TIMES = "hidden_states", "timestep"
"""The arguments whose frames are counted, along axis 2 and 1."""
PARTITION = "chunk_partition"
"""The argument of networks that are called for one chunk at a time, by which they know how long those before it are."""

Stage = Literal["waits", "runs", "rests"]
"""Of a chunk: before its first step, between that and its last, or behind it."""


class ChunkPart(NamedTuple):
    """What a call is asked of one chunk.

    Attributes:
        number: of the chunk.
        call: its arguments.
        time: what the network is called with.
    """

    number: int
    call: Arguments
    stage: Stage
    time: float


class ChunkCutter:
    """Cuts calls of a network as a plan says.

    Args:
        grids: the time grids of the plan's sections.
    """

    def __init__(self, network: nn.Module, chunking: Chunking, grids: Sequence[TimeGrid]) -> None:
        self._names = Names(network)
        one_chunk = self._names.known((PARTITION,))  # a call is of the last of these
        self._known = len(self._names.known((LATENTS, TIMES))) == 2 and not one_chunk
        self._chunking, self._grids = chunking, grids

    def holds_chunks(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether frames of a call have timesteps of their own."""
        if not self._known:
            return False
        latents, times = (self._names.get(name, args, kwargs) for name in (LATENTS, TIMES))
        if not isinstance(times, Tensor) or times.ndim != 2 or not isinstance(latents, Tensor) or latents.ndim != 5:
            return False
        return latents.shape[2] % times.shape[1] == 0  # else tokens have their own, as in Wan 2.2's image to video

    def latents(self, call: Arguments) -> Tensor:
        """Those of a call, ``(batch, channel, frame, row, column)``."""
        found: Tensor = self._names.get(LATENTS, *call)
        return found

    def frames(self, call: Arguments) -> int:
        """How many frames a call is of, as the network has timesteps for them."""
        return int(self._names.get(TIMES, *call).shape[1])

    def cut(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[ChunkPart]:
        """The chunks of a call in order. Waits for the device, which tells their times."""
        latents, times = self._names.get(LATENTS, args, kwargs), self._names.get(TIMES, args, kwargs)
        frames = self._chunking.frames
        pieces = zip(latents.split(frames * latents.shape[2] // times.shape[1], 2), times.split(frames, 1), strict=True)
        calls = [self._replaced(args, kwargs, {LATENTS: piece, TIMES: time}) for piece, time in pieces]
        rounding = 2 * torch.finfo(times.dtype).eps if times.is_floating_point() else 0.0
        told = torch.stack([time.amax() for time in times.split(frames, 1)]).cpu().double().tolist()
        found = zip(calls, self._stages(told, max(rounding, 1e-6)), told, strict=True)
        return [ChunkPart(number, *each) for number, each in enumerate(found)]

    def _stages(self, times: Sequence[float], rounding: float) -> list[Stage]:
        """What each chunk is at, by its time and where the one before it is."""
        stages = list[Stage]()
        for i, time in enumerate(times):
            if self._is_behind(time, rounding):
                stages.append("rests")
            elif (
                i and self._is_first(time, rounding) and self._holds_up(stages[-1], self._step(times[i - 1], rounding))
            ):
                stages.append("waits")
            else:
                stages.append("runs")
        return stages

    def _holds_up(self, stage: Stage, step: int | None) -> bool:
        """Whether the next chunk waits for one."""
        lag = self._chunking.lag
        return lag > 0 and (stage == "waits" or (stage == "runs" and step is not None and step < lag))

    def _is_first(self, time: float, rounding: float) -> bool:
        """Whether a time is that of the first step, or what SkyReels-V2's pipeline calls it before, 999 for 1000."""
        return any(grid.is_at(0, time, max(rounding, 1.0001e-3)) for grid in self._grids)

    def _step(self, time: float, rounding: float) -> int | None:
        found = (s for grid in self._grids for s in range(len(grid.timesteps)) if grid.is_at(s, time, rounding))
        return next(found, None)

    def _is_behind(self, time: float, rounding: float) -> bool:
        """Whether a time is beyond the last step of every grid."""
        return all(_beyond(grid.timesteps, time, rounding) for grid in self._grids)

    def _replaced(self, args: tuple[Any, ...], kwargs: dict[str, Any], new: Mapping[str, Tensor]) -> Arguments:
        places = {self._names.place(name): value for name, value in new.items()}
        named = {name: value for name, value in new.items() if name in kwargs}
        return tuple(places.get(i, value) for i, value in enumerate(args)), kwargs | named


def frame_axis(part: Tensor) -> int:
    """The axis along which a tensor has its frames: of latents, or of tokens frame by frame."""
    return 2 if part.ndim == 5 else 1


def _beyond(times: Sequence[float], time: float, rounding: float) -> bool:
    last, falls = times[-1], times[0] >= times[-1]
    return (last - time if falls else time - last) > rounding * max(abs(last), 1e-6)


class WholeCalls:
    """Calls of a network that are answered as they come.

    Attributes:
        observer: told of every attention of videos that begin, None for nobody.
    """

    observer: Observer | None = None

    @property
    def key_bytes(self) -> int:
        """Bytes of keys and values that are kept."""
        return 0

    def install(self) -> None:
        """Stand in the network, beside what the plan's points need."""

    def remove(self) -> None:
        """Restore it, and forget all videos."""

    def takes(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether a call holds chunks of which each is answered on its own."""
        del args, kwargs
        return False

    def answer(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The answer to such a call."""
        raise NotImplementedError

    def drop(self, own: bool) -> None:
        """Forget the videos of all threads, or the calling sampler's."""
