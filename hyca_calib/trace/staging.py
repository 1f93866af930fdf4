"""Results of a batch on their way to the host: two sets of pinned buffers, copied to on a stream of their own."""

from __future__ import annotations

import queue
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["Staged", "Staging"]

SETS = 2


@dataclass(frozen=True)
class Staged:
    """Tensors that are, or soon will be, on the host; `wait` before reading, `release` after."""

    _tensors: dict[str, Tensor]
    _copied: Any
    _slot: dict[str, Tensor]
    _free: queue.Queue[dict[str, Tensor]]

    def wait(self) -> dict[str, Tensor]:
        if self._copied is not None:
            self._copied.synchronize()
        return self._tensors

    def release(self) -> None:
        self._free.put(self._slot)


class Staging:
    """Hands batches over; `stage` waits while both sets are in use, which bounds the memory."""

    def __init__(self, device: torch.device) -> None:
        self._free: queue.Queue[dict[str, Tensor]] = queue.Queue()
        for _ in range(SETS):
            self._free.put({})
        self._stream: Any = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def stage(self, tensors: dict[str, Tensor]) -> Staged:
        """Begin to copy; on a machine without GPU the tensors are there already."""
        slot = self._free.get()
        if self._stream is None:
            return Staged({name: tensor.cpu() for name, tensor in tensors.items()}, None, slot, self._free)
        self._stream.wait_stream(torch.cuda.current_stream(self._stream.device))
        with torch.cuda.stream(self._stream):
            found = {name: self._copy(slot, name, tensor) for name, tensor in tensors.items()}
            copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            copied.record(self._stream)
        return Staged(found, copied, slot, self._free)

    def _copy(self, slot: dict[str, Tensor], name: str, tensor: Tensor) -> Tensor:
        if not tensor.is_cuda:
            return tensor
        kept = slot.get(name)
        if kept is None or kept.dtype != tensor.dtype or kept.numel() < tensor.numel():
            kept = slot[name] = torch.empty(tensor.numel(), dtype=tensor.dtype, pin_memory=True)
        buffer = kept[: tensor.numel()].view(tensor.shape)
        buffer.copy_(tensor, non_blocking=True)
        tensor.record_stream(self._stream)  # its memory is not reused before the copy is done
        return buffer
