"""CHORDS: one sample by several lanes that begin at different steps; slower lanes correct faster ones.

After "CHORDS", arXiv 2507.15260. All lanes call the network once in every pass. Let S(x, v, a -> b) be the sampler's
step. A lane begins with one coarse jump from the first call of the lane behind it. It remembers its *anchor*:
the latents x' and the output v' at step b where it began or was last corrected. When the lane behind it calls the
network at that same step b, with latents x and output v, then on its way to step e it adds

    S(x, v, b -> e) - S(x', v', b -> e),

what the jump from b would have been with the slower lane's knowledge less what it was without; e is its new anchor.
No call of the network is spent on this. Of an output that depends on time only nothing of the error is left.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from hyca_runtime.samplers.single_step import SingleStep
from hyca_runtime.samplers.starts import Lanes


@dataclass(frozen=True)
class Hit:
    """A finished sample of one lane.

    Attributes:
        lane: whose it is; of the first hit, a straight jump to the end, the fast one.
        passes: after which it was there.
        latents: the sample, before a decoder.
        gap: how far it is from the hit before: the 2-norm of the difference over its number of values, of the sample of
            a batch where that is largest. None of the first hit.
    """

    lane: int
    passes: int
    latents: Tensor
    gap: float | None


class Stop(Protocol):
    """When the lanes rest."""

    @property
    def hits(self) -> int | None:
        """Lanes that finish at most, None for all."""

    def rests(self, hit: Hit, number: int) -> bool:
        """Whether a hit is the last; `number` lanes have finished by then."""


@dataclass(frozen=True)
class AfterHits:
    """Rest once so many lanes have finished: 1 for the fast one alone, None for all."""

    hits: int | None = 1

    def rests(self, hit: Hit, number: int) -> bool:
        del hit
        return number == self.hits


@dataclass(frozen=True)
class OnceClose:
    """Rest at the first lane whose sample is nearly that of the hit before; see `Hit.gap`."""

    threshold: float = 4e-4
    hits: int | None = None

    def rests(self, hit: Hit, number: int) -> bool:
        del number
        return hit.gap is not None and hit.gap < self.threshold


@dataclass(frozen=True)
class Called:
    """One call of the network: its step, the latents, and what it said."""

    step: int
    latents: Tensor
    output: Tensor


@dataclass(frozen=True)
class Core:
    """Where a lane is: its next call, and its anchor; None until that is called."""

    step: int
    latents: Tensor
    anchor: Called | None = None


class Chords:
    """The lanes of one sample, pass by pass. Whoever drives it calls the network.

    Args:
        latents: initial noise.
        on_hit: told every finished sample.
        on_correction: told every lane that is corrected, the fast one first, and the step where it and the slower one
            have both called the network.
        on_call: told the lane of every call, and the call.
    """

    def __init__(
        self,
        lanes: Lanes,
        sampler: SingleStep,
        latents: Tensor,
        stop: Stop,
        on_hit: Callable[[Hit], None] | None = None,
        on_correction: Callable[[int, int], None] | None = None,
        on_call: Callable[[int, Called], None] | None = None,
    ) -> None:
        self.lanes, self.sampler, self._stop = lanes, sampler, stop
        self._on_hit, self._on_correction, self._on_call = on_hit, on_correction, on_call
        self.live = {0: Core(0, latents)}
        self.hits: list[Hit] = []
        self.passes = 0
        self.done = False

    @property
    def result(self) -> Tensor:
        """The latest finished sample."""
        return self.hits[-1].latents

    def advance(self, outputs: Mapping[int, Tensor]) -> None:
        """Take every live lane one step on.

        Args:
            outputs: of the network, for each lane of `live`, at its step and latents.
        """
        self.passes += 1
        called = {lane: Called(core.step, core.latents, outputs[lane]) for lane, core in self.live.items()}
        if self._on_call is not None:
            for lane, call in called.items():
                self._on_call(lane, call)
        moved = [(lane, self._moved(lane, called)) for lane in sorted(called, reverse=True)]
        self.live = dict(reversed(moved))
        newest = self.passes - 1
        if newest < len(self.lanes):
            self._begin(newest + 1, called[newest])
        for lane in sorted(called, reverse=True):
            if self.live[lane].step == self.lanes.num_steps:
                self._hit(lane, self.live.pop(lane).latents)

    def _jump(self, called: Called, end: int) -> Tensor:
        return self.sampler.step(called.latents, called.output, called.step, end)

    def _moved(self, lane: int, called: Mapping[int, Called]) -> Core:
        now, behind = called[lane], called.get(lane - 1)
        anchor, end = self.live[lane].anchor or now, now.step + 1
        latents, corrected = self._jump(now, end), False
        if behind is not None and behind.step == anchor.step:
            latents = latents + self._jump(behind, end) - self._jump(anchor, end)
            corrected = True
            if self._on_correction is not None:
                self._on_correction(lane, behind.step)
        return Core(end, self.sampler.stored(latents, now.output), None if corrected else anchor)

    def _begin(self, lane: int, first: Called) -> None:
        """Begin a lane with a jump from the first call of the one behind it; behind the last one lies the end."""
        last = lane == len(self.lanes)
        start = self.lanes.num_steps if last else self.lanes.starts[lane]
        latents = self.sampler.stored(self._jump(first, start), first.output)
        if last:
            self._hit(lane - 1, latents)
        else:
            self.live[lane] = Core(start, latents)

    def _hit(self, lane: int, latents: Tensor) -> None:
        if self.done:
            return
        before = self.hits[-1].latents if self.hits else None
        hit = Hit(lane, self.passes, latents, None if before is None else _gap(latents, before))
        self.hits.append(hit)
        if self._on_hit is not None:
            self._on_hit(hit)
        finished = len(self.hits) - 1
        self.done = finished == len(self.lanes) or self._stop.rests(hit, finished)


def _gap(latents: Tensor, before: Tensor) -> float:
    differences = (latents.cpu().double() - before.cpu().double()).flatten(1)  # not every device has float64
    return float(differences.norm(dim=1).max()) / differences.shape[1]
