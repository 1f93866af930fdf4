"""Calls of a network that hold chunks at steps of their own, and are computed or forecast as one."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hyca_runtime.attach.attachment import Attachment
from hyca_runtime.attach.bound_point import Captured, Keeper
from hyca_runtime.attach.compiling import outside
from hyca_runtime.chunk_parts import ChunkCutter, ChunkPart, WholeCalls, frame_axis
from hyca_runtime.compiled_plan import CompiledPlan
from hyca_runtime.decisions import Decisions
from hyca_runtime.doing import Doing
from hyca_runtime.feature import Feature
from hyca_runtime.lane import Lane
from hyca_runtime.schedule import COMPUTE, Action
from hyca_runtime.stream_state import Turn


class _Asked(NamedTuple):
    """What one chunk of a call would do."""

    part: ChunkPart
    lane: Lane
    turn: Turn
    action: Action


class ChunksTogether(WholeCalls):
    """Calls that hold several chunks: computed if one of them is to be, else all are forecast, each from its own past.

    What a chunk is computed for the sake of another is not remembered where the plan's rows are for its own computed
    steps. Chunks that wait or rest ask for nothing; where the others are forecast nobody looks at them.
    """

    def __init__(self, plan: CompiledPlan, cutter: ChunkCutter, attachment: Attachment, decisions: Decisions) -> None:
        self._plan, self._cutter, self._attachment, self._decisions = plan, cutter, attachment, decisions
        self._decide = outside(self._decided)

    def takes(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        return self._attachment.context.said.chunk is None and self._cutter.holds_chunks(args, kwargs)

    def answer(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self._attachment.run(args, kwargs, *self._decide(args, kwargs))[0]

    def _decided(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Doing:
        context, parts = self._attachment.context, self._cutter.cut(args, kwargs)
        frames = [self._cutter.frames(part.call) for part in parts]
        asked: list[_Asked | None] = []
        for part in parts:
            with context.saying(chunk=part.number):
                asked.append(self._asked(part) if part.stage == "runs" else None)
        running = [one for one in asked if one is not None]
        late = self._plan.adapts and any(part.stage == "rests" and part.time for part in parts)  # of a longer run?
        if len({one.action for one in running}) == 1 and not running[0].action.computes and not late:
            doings = [self._decisions.done(one.lane, one.turn, one.action) for one in running]
            forecasts = [doing for doing in doings if isinstance(doing, Doing) and doing.inject]
            if len(forecasts) == len(running):
                return _joined(asked, forecasts, frames)
            return self._computed_after_all(running, doings, asked, frames)
        keepers = [self._keeper(one) for one in running]
        return Doing(tuple(self._plan.points), {}, partial(_tell, keepers, _places(asked), frames))

    def _asked(self, part: ChunkPart) -> _Asked:
        plan = self._attachment.context.said.plan or self._plan
        lane, (turn,) = self._decisions.placed(plan, *part.call)
        if not lane.plan.follows(lane.track):
            self._decisions.leave(lane, [turn])
            return _Asked(part, lane, turn, COMPUTE)
        return _Asked(part, lane, turn, self._decisions.action(lane, turn, *part.call))

    def _keeper(self, one: _Asked) -> Keeper | None:
        """What is told the features of a chunk whose call is computed, perhaps for another's sake."""
        plan, lane, turn = one.lane.plan, one.lane, one.turn
        if not one.action.computes:
            keeps = plan.is_free(plan.section(lane.track))
        else:
            follows = plan.follows(lane.track)
            keeps = follows and self._decisions.is_followed(lane, turn, one.action, turn.state.cause)
        return self._decisions.computing(lane, [turn], COMPUTE, [keeps], fills_cache=False).keep

    def _computed_after_all(
        self, running: Sequence[_Asked], doings: Sequence[Any], asked: Sequence[_Asked | None], frames: Sequence[int]
    ) -> Doing:
        """A call of which one chunk cannot be forecast: those that can are counted anew."""
        keepers = list[Keeper | None]()
        for one, doing in zip(running, doings, strict=True):
            keep = doing.keep
            if doing.inject:
                state, plan = one.turn.state, one.lane.plan
                state.count.computed_after_all(one.action, COMPUTE)
                keep = one.lane.remember(state, plan.is_free(plan.section(one.lane.track)))
            keepers.append(keep)
        return Doing(tuple(self._plan.points), {}, partial(_tell, keepers, _places(asked), frames))


def _places(asked: Sequence[_Asked | None]) -> list[int]:
    """Which chunks of a call run."""
    return [place for place, one in enumerate(asked) if one is not None]


def _joined(asked: Sequence[_Asked | None], forecasts: Sequence[Doing], frames: Sequence[int]) -> Doing:
    """One forecast of all chunks, zeros for those that nobody looks at."""
    places, inject = _places(asked), dict[str, Feature]()
    for name, first in forecasts[0].inject.items():
        per_frame = [part.shape[frame_axis(part)] // frames[places[0]] for part in first]
        parts = [list[Tensor]() for _ in first]
        found = dict(zip(places, forecasts, strict=True))
        for place, count in enumerate(frames):
            for i, part in enumerate(first):
                own = found[place].inject[name][i] if place in found else _zeros(part, count * per_frame[i])
                parts[i].append(own)
        inject[name] = Feature((torch.cat(pieces, frame_axis(pieces[0])) for pieces in parts), first.form)
    return Doing((), inject, None, forecasts[0].weights)


def _tell(keepers: Sequence[Keeper | None], places: Sequence[int], frames: Sequence[int], captured: Captured) -> None:
    """Tell each chunk that runs its own features."""
    pieces = {name: _cut(feature, frames) for name, feature in captured.items()}
    for keep, place in zip(keepers, places, strict=True):
        if keep is not None:
            keep({name: piece[place] for name, piece in pieces.items()})


def _cut(feature: Feature | None, frames: Sequence[int]) -> list[Feature | None]:
    """The feature of each chunk; None where its tensors are not in frames."""
    if feature is None or any(part.ndim < 3 or part.shape[frame_axis(part)] % sum(frames) for part in feature):
        return [None] * len(frames)
    cut = [
        part.split_with_sizes([count * part.shape[axis] // sum(frames) for count in frames], axis)
        for part, axis in zip(feature, map(frame_axis, feature), strict=True)
    ]
    return [Feature(pieces, feature.form) for pieces in zip(*cut, strict=True)]


def _zeros(like: Tensor, size: int) -> Tensor:
    shape = list(like.shape)
    shape[frame_axis(like)] = size
    return like.new_zeros(shape)
