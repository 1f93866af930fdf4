"""Ways of making a pass: the lanes one after another, or all in one batch."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from hyca_runtime.samplers.chords import Chords
from hyca_runtime.samplers.starts import Lanes


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of the network by a pipeline, guidance included.

    Attributes:
        steps: one for the whole batch, or one for each of its samples.
        lane: whose plan the calls inside follow; None for none.
    """

    steps: tuple[int, ...]
    latents: Tensor
    lane: int | None


Driving = Generator[Evaluation, Tensor, None]
"""Says what to evaluate, and is sent the outputs. The first evaluation is of step 0, and of the initial latents."""


class Drive(Protocol):
    """Where the lanes run.

    Attributes:
        opens: the lane whose plan the first evaluation follows, None for none.
        copies: how often the pipeline draws each sample.
    """

    opens: int | None
    copies: int

    def route(self, lanes: Lanes, passes: int) -> list[tuple[int, ...]]:
        """The steps of all evaluations that this process makes in so many passes."""

    def drive(self, chords: Chords) -> Driving:
        """Advance the lanes until they are done."""

    def own(self, lanes: int) -> Sequence[int]:
        """Those of so many lanes that run in this process."""

    def shared(self, marks: Tensor) -> Tensor:
        """The sum of what all processes have marked; int64."""


class InThisProcess:
    """What drives of a single process have in common."""

    def own(self, lanes: int) -> Sequence[int]:
        return range(lanes)

    def shared(self, marks: Tensor) -> Tensor:
        return marks


class OneAfterAnother(InThisProcess):
    """The lanes in turn, on the device of the pipeline: the quality of any number of devices, not their speed."""

    opens: int | None = 0
    copies = 1

    def route(self, lanes: Lanes, passes: int) -> list[tuple[int, ...]]:
        steps = [lanes.step(lane, number) for number in range(1, passes + 1) for lane in range(len(lanes))]
        return [(step,) for step in steps if step is not None]

    def drive(self, chords: Chords) -> Driving:
        while not chords.done:
            outputs = dict[int, Tensor]()
            for lane, core in chords.live.items():
                outputs[lane] = yield Evaluation((core.step,), core.latents, lane)
            chords.advance(outputs)


class InOneBatch(InThisProcess):
    """All lanes in one call of the network, where a device has room for it.

    Every call is of the same size: a lane that has not begun, or is done, repeats the slow one's part.

    Args:
        lanes: their number.
        samples: of each lane.
    """

    opens: int | None = None

    def __init__(self, lanes: int, samples: int) -> None:
        self.copies, self._samples = lanes, samples

    def route(self, lanes: Lanes, passes: int) -> list[tuple[int, ...]]:
        found = []
        for number in range(1, passes + 1):
            steps = [lanes.step(lane, number) for lane in range(len(lanes))]
            slow = next(step for step in steps if step is not None)
            found.append(self._for_each_sample([slow if step is None else step for step in steps]))
        return found

    def drive(self, chords: Chords) -> Driving:
        while not chords.done:
            slow = chords.live[min(chords.live)]
            cores = [chords.live.get(lane, slow) for lane in range(self.copies)]
            steps = self._for_each_sample([core.step for core in cores])
            outputs = yield Evaluation(steps, torch.cat([core.latents for core in cores]), None)
            parts = outputs.chunk(self.copies)
            chords.advance({lane: parts[lane] for lane in chords.live})

    def _for_each_sample(self, steps: Sequence[int]) -> tuple[int, ...]:
        return tuple(step for step in steps for _ in range(self._samples))
