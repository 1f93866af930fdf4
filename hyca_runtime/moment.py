"""Where the sampler is, at one call of the network."""

from __future__ import annotations

from dataclasses import dataclass

Stream = tuple[str, int, int]
"""(branch, chunk, lane): the key of all run-time state."""


@dataclass(frozen=True)
class Moment:
    """One network call of a run.

    Attributes:
        run: how many runs this stream began before.
        position: the step of the plan, from 0; between two for a sampler with other steps.
        previous: position of the call before in this run, -1 at the first.
        num_steps: steps of the plan.
        branch: guidance branch: the name given to diffusers' ``cache_context``, or "", "#1" ... in
            order of appearance.
        chunk: part of a long video that is denoised on its own.
        lane: one of several samplers that run side by side; each thread is one.
    """

    run: int
    position: float
    previous: float
    num_steps: int
    branch: str = ""
    chunk: int = 0
    lane: int = 0

    @property
    def stream(self) -> Stream:
        """The calls that share one history."""
        return (self.branch, self.chunk, self.lane)
