"""Sums over full runs, kept after each: who is interrupted goes on from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from hyca_calib.pipelines.workload import Job
from hyca_calib.records.atomic import replacing
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
    total, done = _kept(file, of)
    for number, job in enumerate(jobs[done:], done):
        on_progress(number / len(jobs))
        found = measure(job)
        total = {name: total[name] + array if total else array for name, array in found.items()}
        with replacing(file) as partial:
            save_file(total, partial, {"of": of, "done": str(number + 1)})
    on_progress(1.0)
    return total


def _kept(file: Path, of: str) -> tuple[Sums, int]:
    try:
        with safe_open(file, "numpy") as kept:
            told = kept.metadata() or {}
            if told.get("of") == of:
                return {name: kept.get_tensor(name) for name in kept.keys()}, int(told["done"])  # noqa: SIM118
    except (OSError, SafetensorError):
        pass
    return {}, 0
