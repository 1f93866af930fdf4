"""The time of one call of a network, and the times of its scheduler."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from hyca_runtime.errors import ClockError

UNITS = (1.0, 1000.0)
"""A scheduler's time over the network's, where they differ in unit alone."""


class Timestep:
    """The timestep of a call; read when it is first asked for, which waits for the device.

    Args:
        value: what the network was called with, None if it was called without one.
        missing: what is said then.
    """

    def __init__(self, value: Any, missing: str = "") -> None:
        self._value, self._missing = value, missing
        self._found: tuple[float, float] | None = None

    @property
    def is_given(self) -> bool:
        """Whether there is one."""
        return self._value is not None

    @property
    def waits(self) -> bool:
        """Whether to read it would wait for a device."""
        return self._found is None and isinstance(self._value, Tensor) and self._value.device.type != "cpu"

    def read(self) -> tuple[float, float]:
        """The timestep, and the relative rounding error of its dtype.

        Where tokens have their own (clean frames of image to video are at time 0), the largest.

        Raises:
            ClockError: the call carries no timestep.
        """
        if self._found is None:
            self._found = self._read()
        return self._found

    def _read(self) -> tuple[float, float]:
        value = self._value
        if value is None:
            raise ClockError(self._missing)
        if not isinstance(value, Tensor):
            return float(value), 1e-6
        rounding = torch.finfo(value.dtype).eps if value.is_floating_point() else 0.0
        return float(value.amax()), max(2 * rounding, 1e-6)

    def is_at(self, other: Timestep) -> bool:
        """Whether both are the same, in their precision."""
        (time, rounding), (theirs, coarser) = self.read(), other.read()
        return abs(time - theirs) <= max(rounding, coarser) * max(abs(theirs), 1e-6)


class SchedulerGrid:
    """A scheduler's timesteps, on the host.

    Attributes:
        times: one for each step of the sampler.
    """

    def __init__(self, timesteps: Tensor) -> None:
        self.times = [float(t) for t in timesteps.tolist()]

    def place_of(self, now: Timestep) -> int:
        """Where a network's timestep, in the scheduler's unit or a thousandth of it, lies in the grid; 0 if nowhere."""
        time, rounding = now.read()
        found = [
            [i for i, own in enumerate(self.times) if abs(own - unit * time) <= rounding * max(abs(own), 1e-6)]
            for unit in UNITS
        ]
        if time == 0 or any(0 in places for places in found):  # networks whose time rises begin at 0
            return 0
        return next((places[-1] for places in found if places), 0)
