"""How many threads a network on the CPU runs fastest with."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from hyca_calib.costs.flops import seconds_of

SLACK = 1.1
"""Fewer threads are taken if they need at most so much longer: others want the cores, too."""
REPEATS = 2


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def timed_threads(run: Callable[[], Any], most: int | None = None) -> dict[int, float]:
    """Seconds of `run` with one thread, two, four and so on up to `most`, by default all cores; the least of a few."""
    most = most or cores()
    counts = sorted({*(2**power for power in range(most.bit_length()) if 2**power <= most), most})
    found = {}
    with using_threads(torch.get_num_threads()):
        for count in counts:
            torch.set_num_threads(count)
            run()
            found[count] = min(seconds_of(run) for _ in range(REPEATS))
    return found


def best_threads(seconds: dict[int, float]) -> int:
    """The fewest threads that are about as fast as any number."""
    return min(count for count, took in seconds.items() if took <= SLACK * min(seconds.values()))


@contextmanager
def using_threads(count: int) -> Iterator[None]:
    """So many threads inside; afterwards as many as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
