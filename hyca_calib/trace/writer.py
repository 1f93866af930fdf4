"""A thread that writes batches while the next one is sampled."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

from hyca_calib.pipelines.workload import Job
from hyca_calib.trace.arrays import Arrays
from hyca_calib.trace.commits import Commit
from hyca_calib.trace.folder import Folder
from hyca_calib.trace.staging import Staged

__all__ = ["Writer"]

WAITING = 2
"""Batches that wait or are written; more would only need memory."""


class Writer:
    """Writes what it is given, in order; an error comes up at the next call. A context manager."""

    def __init__(self, folder: Folder, arrays: Arrays, on_commit: Callable[[Commit], None]) -> None:
        self._folder, self._arrays, self._on_commit = folder, arrays, on_commit
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="hyca-trace")
        self._waiting: deque[Future[None]] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Finish what was given, unless something went wrong."""
        try:
            while kind is None and self._waiting:
                self._waiting.popleft().result()
        finally:
            self._thread.shutdown(wait=True, cancel_futures=True)

    def write(self, batch: int, jobs: Sequence[Job], staged: Staged, nonfinite: Sequence[Mapping[str, Any]]) -> None:
        """Hand over a batch; waits while there are too many."""
        while len(self._waiting) >= WAITING:
            self._waiting.popleft().result()
        self._waiting.append(self._thread.submit(self._write, batch, jobs, staged, nonfinite))

    def _write(self, batch: int, jobs: Sequence[Job], staged: Staged, nonfinite: Sequence[Mapping[str, Any]]) -> None:
        try:
            arrays = {name: tensor.numpy() for name, tensor in staged.wait().items()}
            to = self._arrays
            with self._folder.clear_errors():
                to.witness.take()
                samples = slice(jobs[0].index, jobs[-1].index + 1)
                to.values[samples] = arrays["values"]
                to.latents[samples] = arrays["latents"]
                to.gram[batch] = arrays["gram"]
                to.gain[batch] = arrays["gain"]
            commit = Commit(batch, tuple(job.index for job in jobs), to.witness.take(), nonfinite)
            commit.write(self._folder)
        finally:
            staged.release()
        self._on_commit(commit)
