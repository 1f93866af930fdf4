"""Runs as short as tell anything: of little strength a few steps call no network at all, and some pipelines only know
some numbers of steps."""

from collections.abc import Callable
from typing import TypeVar

from hyca_runtime.errors import TraceError, WorkloadError

PROBE_STEPS = 2
"""Of a run that only tells what a call looks like."""

Found = TypeVar("Found")


def shortest(
    most: int,
    run: Callable[[int], Found],
    steps: int = PROBE_STEPS,
    in_vain: Callable[[], bool] = lambda: False,
) -> Found:
    """What a run of few steps finds, of twice as many while it finds None or fails, of `most` in the end.

    Args:
        run: told how many steps to ask for.
        steps: of the first.
        in_vain: whether more steps change nothing after a failure.
    """
    steps = min(steps, most)
    while True:
        try:
            found = run(steps)
            if found is not None or steps >= most:
                return found
        except (TraceError, WorkloadError):
            if steps >= most or in_vain():
                raise
        steps = min(2 * steps, most)
