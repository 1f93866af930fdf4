"""A thread that writes batches while the next one is sampled."""

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Any, Self

import torch

from hyca_calib.trace.arrays import Arrays
from hyca_calib.trace.commits import Commit
from hyca_calib.trace.folder import Folder
from hyca_calib.trace.layout import Layout
from hyca_calib.trace.recording import Recording
from hyca_calib.trace.reduce import ACROSS, Reduced, reduced
from hyca_calib.trace.request import Request

WAITING = 2
"""Batches that wait or are written; more would only need memory."""

Staged = tuple[Reduced, Any]
"""Tensors on the host, and the event at which they are there; None if they are already."""


class Writer:
    """Writes batches in order; an error comes up at the next call. A context manager.

    While one batch is sampled, the one before is copied to the host, and the one before that is written. From a GPU
    they are copied to pinned memory, which torch keeps for the next one, on a stream of its own.
    """

    def __init__(
        self,
        folder: Folder,
        request: Request,
        layout: Layout,
        device: torch.device,
        on_commit: Callable[[Commit], None],
    ) -> None:
        self._folder, self._request, self._layout, self._on_commit = folder, request, layout, on_commit
        self._arrays = Arrays.open(folder, request, layout)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="hyca-trace")
        self._waiting: deque[Future[None]] = deque()
        self._stream: Any = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Finish what was given, unless something went wrong."""
        try:
            while kind is None and self._waiting:
                self._waiting.popleft().result()
        finally:
            self._thread.shutdown(wait=True, cancel_futures=True)

    def write(self, batch: int, recording: Recording) -> None:
        """Hand over a batch; waits while there are too many.

        Raises:
            TraceError: the batch is of another layout, or storage failed.
        """
        self._layout.check(recording)
        samples = tuple(job.index for job in self._request.batches[batch])
        tensors, nonfinite = reduced(recording, self._layout, samples)
        if len(self._waiting) == WAITING:
            self._waiting.popleft().result()
        told = {"samples": samples, "nonfinite": nonfinite, "guidance": tuple(recording.guidance)}
        self._waiting.append(self._thread.submit(self._write, batch, self._staged(tensors), told))

    def _staged(self, tensors: Reduced) -> Staged:
        if self._stream is None:
            return {name: tensor.cpu() for name, tensor in tensors.items()}, None
        self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
        with torch.cuda.stream(self._stream):
            staged = {name: tensor.to("cpu", non_blocking=True) for name, tensor in tensors.items()}
            copied = self._stream.record_event()
        for tensor in tensors.values():
            if tensor.is_cuda:
                tensor.record_stream(self._stream)  # its memory is not reused before the copy is done
        return staged, copied

    def _write(self, batch: int, staged: Staged, told: dict[str, Any]) -> None:
        (tensors, copied), samples = staged, told["samples"]
        if copied is not None:
            copied.synchronize()
        found, arrays = {name: tensor.numpy() for name, tensor in tensors.items()}, self._arrays
        with self._folder.clear_errors():
            arrays.witness.take()
            numbers = slice(samples[0], samples[-1] + 1)
            arrays.latents[numbers] = found["latents",]
            if arrays.across is not None:
                arrays.across[batch] = found[ACROSS]
            for key, of in arrays.points.items():
                of.values[numbers] = found[key, "values"]
                of.gram[batch] = found[key, "gram"]
                of.gain[batch] = found[key, "gain"]
        commit = Commit(batch=batch, files=arrays.witness.take(), **told)
        commit.write(self._folder)
        self._on_commit(commit)
