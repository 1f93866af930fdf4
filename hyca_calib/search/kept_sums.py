"""Sums over full runs, kept after each: who is interrupted goes on from them."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from hyca_calib.pipelines.workload import Job
from hyca_calib.records.kept_tensors import keep, kept
from hyca_calib.search.replay import Array

Sums = dict[str, Array]
"""By name."""


def summed(
    file: Path, of: str, jobs: Sequence[Job], measure: Callable[[Job], Sums], on_progress: Callable[[float], None]
) -> Sums:
    """What is measured of each job, added up.

    Args:
        file: where the sum over the first jobs is kept.
        of: what is measured of which jobs; what a file holds of anything else is not used.
    """
    known, told = kept(file, of)
    total, done = {name: array.numpy() for name, array in known.items()}, int(told.get("done", 0))
    for number, job in enumerate(jobs[done:], done):
        on_progress(number / len(jobs))
        found = measure(job)
        total = {name: total[name] + array if total else array for name, array in found.items()}
        sums = {name: torch.from_numpy(array) for name, array in total.items()}
        keep(file, of, sums, done=str(number + 1))
    on_progress(1.0)
    return total
