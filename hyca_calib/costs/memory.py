"""How much memory a piece of work takes."""

import ctypes
import ctypes.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


class Peak:
    """What `peak_memory` found; None where it cannot be told.

    Attributes:
        bytes: the most that was held at once, beyond what there was before.
        held: the same with what there was before.
    """

    bytes: int | None = None
    held: int | None = None


_open = list[tuple[Peak, str]]()
"""Of work that goes on, and the kind of device: it is told what was held before work inside of it lets the high-water
mark begin anew."""


@contextmanager
def peak_memory(device: torch.device) -> Iterator[Peak]:
    """Measures the memory of the work inside: what tensors take on a GPU, else what Linux gives this process."""
    _tell_open(device)
    before, peak = _restart(device), Peak()
    _open.append((peak, device.type))
    try:
        yield peak
    finally:
        _tell_open(device)
        _open.remove((peak, device.type))
        peak.held = None if before is None else peak.held
        peak.bytes = None if before is None or peak.held is None else max(0, peak.held - before)


def _tell_open(device: torch.device) -> None:
    """The high-water mark, to all work that goes on and is measured there."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        mark = torch.cuda.max_memory_allocated(device)
    else:
        mark = resident("VmHWM")
    for peak, kind in _open:
        if kind == device.type:
            peak.held = max(peak.held or 0, mark)


def _restart(device: torch.device) -> int | None:
    """Let the high-water mark begin at what is held now; the latter, or None where nobody can tell."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    if not resident("VmRSS"):
        return None
    trim()  # memory that was freed but kept would hide what the work takes
    try:
        RESET.write_text("5")
    except OSError:  # a sandbox may forbid it
        return None
    return resident("VmRSS")


def trim() -> None:
    """Give back to Linux what was freed; elsewhere nothing happens."""
    if sys.platform == "linux":
        give_back = getattr(ctypes.CDLL(ctypes.util.find_library("c")), "malloc_trim", None)
        if give_back is not None:
            give_back(0)


def resident(name: str) -> int:
    """Bytes of one line of the status that Linux keeps of this process, such as ``VmRSS``; elsewhere 0."""
    if sys.platform != "linux" or not STATUS.exists():
        return 0
    return next(1024 * int(line.split()[1]) for line in STATUS.read_text().splitlines() if line.startswith(name))
