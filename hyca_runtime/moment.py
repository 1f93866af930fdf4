"""Where the sampler is, at one call of the network."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Moment", "Stream"]

Stream = tuple[str, int, int]
"""(branch, chunk, lane): the key of all run-time state."""


@dataclass(frozen=True)
class Moment:
    """One network call of a run.

    Attributes:
        run: how many runs this stream began before.
        step: index of the sampler step, from 0.
        num_steps: steps of the whole run.
        time: the timestep the network was called with, in the model's own unit.
        branch: guidance branch, the name given to diffusers' ``cache_context`` ("" without one).
        chunk: part of a long video that is denoised on its own.
        lane: one of several samplers that run side by side.
    """

    run: int
    step: int
    num_steps: int
    time: float
    branch: str = ""
    chunk: int = 0
    lane: int = 0

    @property
    def stream(self) -> Stream:
        """The calls that share one history."""
        return (self.branch, self.chunk, self.lane)
