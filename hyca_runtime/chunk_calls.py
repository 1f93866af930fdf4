"""Making a call of a network chunk by chunk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from hyca_runtime.attach.attachment import Attachment
from hyca_runtime.attach.chunk_attention import ChunkAttention, Place
from hyca_runtime.attach.clock import Clock
from hyca_runtime.attach.far_attention import FAR, FarAttention
from hyca_runtime.calls import Call
from hyca_runtime.chunk_parts import ChunkCutter, ChunkPart, WholeCalls
from hyca_runtime.chunking import Chunking
from hyca_runtime.chunks_together import ChunksTogether
from hyca_runtime.compiled_plan import CompiledPlan
from hyca_runtime.decisions import Decisions
from hyca_runtime.errors import ClockError
from hyca_runtime.lanes import Lanes
from hyca_runtime.stacked import joined, same
from hyca_runtime.streaming.key_store import KeyStore
from hyca_runtime.streaming.retention import All

Answer = Callable[[tuple[Any, ...], dict[str, Any]], Any]
"""Answers a call."""


@dataclass
class Rested:
    """The last call of a chunk that is finished.

    Attributes:
        latents: what it was called with.
        prompt: what it was conditioned with.
        output: the network's answer.
    """

    latents: Tensor
    prompt: Tensor | None
    output: Any


@dataclass
class Video:
    """What one sampler has of its video, in one guidance branch."""

    store: KeyStore
    runs: dict[int, tuple[object, int]] = field(default_factory=dict)
    rested: dict[int, Rested] = field(default_factory=dict)

    def enter(self, chunk: int, run: tuple[object, int]) -> None:
        """A chunk is called in a run of its own; with a new one begins what is behind, too."""
        known = self.runs.get(chunk)
        if known is None or known[0] is not run[0] or known[1] != run[1]:
            self.store.begin(chunk)
            self.runs = {number: of for number, of in self.runs.items() if number < chunk} | {chunk: run}
            self.rested = {number: of for number, of in self.rested.items() if number < chunk}


class ChunkCalls(WholeCalls):
    """Calls of a network that are made chunk by chunk.

    Args:
        cutter: cuts them.
        number: tells the number of the calling thread's sampler.
        answer: answers the call of one chunk by the plan, and tells of it with `enter` before.

    Attributes:
        attention: lets the network run on one chunk.
    """

    def __init__(
        self,
        chunking: Chunking,
        cutter: ChunkCutter,
        attachment: Attachment,
        clock: Clock,
        number: Callable[[], int],
        answer: Answer,
    ) -> None:
        self._chunking, self._cutter, self._attachment, self._clock = chunking, cutter, attachment, clock
        self._context, self._number, self._answer = attachment.context, number, answer
        self.attention = ChunkAttention(attachment.module)
        self.videos: dict[tuple[int, str], Video] = {}

    @property
    def key_bytes(self) -> int:
        return sum(video.store.nbytes for video in self.videos.values())

    def install(self) -> None:
        self.attention.install()

    def remove(self) -> None:
        self.attention.remove()
        self.videos.clear()

    def takes(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        return self._context.said.chunk is None and self._cutter.holds_chunks(args, kwargs)

    def answer(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The answer to a call; of a chunk that waits zeros, for no sampler asks."""
        parts = self._cutter.cut(args, kwargs)
        resting = self._unchanged(parts)
        shape = self.attention.shape(self._cutter.latents((args, kwargs)), self._chunking.frames)
        outputs = dict[int, Any]()
        for part in parts:
            if part.stage != "waits":
                place = Place(self._video().store, part.number, shape)
                with self._context.saying(chunk=part.number), self.attention.at(place):
                    outputs[part.number] = self._of(part, part.number in resting)
        nothing = tree_map(_zeros, next(iter(outputs.values())))
        return joined([outputs.get(part.number, nothing) for part in parts], axis=2)

    def enter(self, call: Call, run: tuple[object, int]) -> None:
        """A chunk's call was placed; what is there of an earlier video is forgotten.

        Args:
            run: of the chunk, who follows it and which it is.

        Raises:
            ClockError: guidance branches have no names.
        """
        if self._context.said.chunk is None:
            return
        if call.branch != self._context.said.branch:
            raise ClockError(
                f"chunks keep keys and values for each guidance branch, but the {call.branch!r} has no name; "
                "name them: with session.at(branch='cond')"
            )
        self._video().enter(self._context.said.chunk, run)

    def drop(self, own: bool) -> None:
        mine = self._number()
        self.videos = {key: video for key, video in self.videos.items() if own and key[0] != mine}

    @property
    def _key(self) -> tuple[int, str]:
        return self._number(), self._context.said.branch

    def _video(self) -> Video:
        if self._key not in self.videos:
            retention = self._chunking.retention or All()
            store = KeyStore(self.attention.layers, retention, self.attention.rotation, self.observer)
            self.videos[self._key] = Video(store)
        return self.videos[self._key]

    def _unchanged(self, parts: list[ChunkPart]) -> set[int]:
        """The leading chunks that rest, as they did before, with all before them; waits for the device.

        Where one runs that was finished it is another video, of which nothing is left that was thinned for the first.
        """
        finished = max(self._video().rested, default=-1)
        if any(part.stage == "runs" and part.number <= finished for part in parts):
            del self.videos[self._key]
        rested, alike = self._video().rested, list[Tensor]()
        for part in parts:
            known, latents = rested.get(part.number), self._cutter.latents(part.call)
            if part.stage != "rests" or known is None or known.latents.shape != latents.shape:
                break
            if known.prompt is not self._clock.prompt(*part.call):
                break
            alike.append(same(known.latents, latents))
        found = torch.stack(alike).tolist() if alike else []
        return set(range([*found, False].index(False)))

    def _of(self, part: ChunkPart, unchanged: bool) -> Any:
        if part.stage != "rests":
            return self._answer(*part.call)
        video = self._video()
        if not unchanged:
            with torch.no_grad():  # nobody takes a step by it
                output = self._attachment.run(*part.call, (), {})[0]
            latents = self._cutter.latents(part.call).detach().clone()
            video.rested[part.number] = Rested(latents, self._clock.prompt(*part.call), output)
            video.store.finish(part.number)
        return video.rested[part.number].output


class HandedKeys(WholeCalls):
    """Calls of a network that is called for one chunk at a time, and handed keys and values: it sees fewer of them."""

    def __init__(self, plan: CompiledPlan, attachment: Attachment) -> None:
        context, chunking = attachment.context, plan.chunks or Chunking(frames=1)

        def follows() -> bool:
            return isinstance(context.said.plan or plan, CompiledPlan)

        self._attention = FarAttention(attachment.module, chunking.frames, chunking.retention or All(), follows)

    def install(self) -> None:
        self._attention.install()

    def remove(self) -> None:
        self._attention.remove()


def _zeros(value: Any) -> Any:
    return torch.zeros_like(value) if isinstance(value, Tensor) else value


def calls_of(
    plan: CompiledPlan, attachment: Attachment, clock: Clock, lanes: Lanes, decisions: Decisions, answer: Answer
) -> WholeCalls:
    """How calls of a network are made by a plan.

    Raises:
        AttachError: by chunks, and the network's attention is not known.
    """
    if plan.chunks is None:
        return WholeCalls()
    cutter = ChunkCutter(attachment.module, plan.chunks, [section.grid for section in plan.sections])
    if plan.chunks.keys is None:
        return ChunksTogether(plan, cutter, attachment, decisions)
    if type(attachment.module).__name__ == FAR:
        return HandedKeys(plan, attachment)
    found = ChunkCalls(plan.chunks, cutter, attachment, clock, lanes.number, answer)
    decisions.listeners.append(lambda lane, call: found.enter(call, (lane.track, lane.track.run)))
    return found
