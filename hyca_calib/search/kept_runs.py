"""Numbers of full runs, kept run by run: who is interrupted goes on from them."""

from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import BaseModel, ValidationError

from hyca_calib.pipelines.workload import Job
from hyca_calib.records.atomic import write_json

Rows = dict[str, list[list[float]]]
"""Rows of numbers by name."""


class Kept(BaseModel, frozen=True):
    """What a file holds.

    Attributes:
        of: what was measured on which workload.
        samples: numbers of each sample, by its number.
    """

    of: str
    samples: dict[int, Rows]


def measured(
    file: Path, of: str, jobs: Sequence[Job], measure: Callable[[Job], Rows], on_progress: Callable[[float], None]
) -> list[Rows]:
    """The numbers of each job.

    Args:
        file: where they are kept.
        of: what is measured on which workload; what a file holds of anything else is not used.
    """
    try:
        found = Kept.model_validate_json(file.read_bytes())
    except (OSError, ValidationError):
        found = Kept(of=of, samples={})
    samples = dict(found.samples) if found.of == of else {}
    for done, job in enumerate(jobs):
        on_progress(done / len(jobs))
        if job.index not in samples:
            samples[job.index] = measure(job)
            write_json(file, Kept(of=of, samples=samples))
    on_progress(1.0)
    return [samples[job.index] for job in jobs]
