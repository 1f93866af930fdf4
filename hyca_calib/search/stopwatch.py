"""The time that a stage may take."""

from collections.abc import Callable
from time import monotonic

Pulse = Callable[[], None]
"""Called between pieces of long work, often; raises `TimeIsUpError` where the work is to stop."""


def no_pulse() -> None:
    """Never stops the work."""


class TimeIsUpError(Exception):
    """A stage stops within a piece of work, whose result is not needed."""


class Stopwatch:
    """Runs from when it is made."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self._begun = seconds, monotonic()

    @property
    def share(self) -> float:
        """The share of the time that is spent, at most 1."""
        return min(1.0, (monotonic() - self._begun) / self._seconds) if self._seconds else 1.0
