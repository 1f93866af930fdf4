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
    """What `peak_memory` found.

    Attributes:
        bytes: the most that was held at once, beyond what there was before; None where it cannot be told.
    """

    bytes: int | None = None


@contextmanager
def peak_memory(device: torch.device) -> Iterator[Peak]:
    """Measures the memory of the work inside: what tensors take on a GPU, else what Linux gives this process."""
    peak = Peak()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield peak
        torch.cuda.synchronize(device)
        peak.bytes = torch.cuda.max_memory_allocated(device) - before
        return
    started = _restart()
    yield peak
    if started is not None:
        peak.bytes = max(0, resident("VmHWM") - started)


def _restart() -> int | None:
    """Let the high-water mark begin at what is held now; the latter, or None if this is not Linux."""
    if sys.platform != "linux" or not STATUS.exists():
        return None
    trim = getattr(ctypes.CDLL(ctypes.util.find_library("c")), "malloc_trim", None)
    if trim is not None:  # memory that was freed but kept would hide what the work takes
        trim(0)
    try:
        RESET.write_text("5")
    except OSError:  # a sandbox may forbid it
        return None
    return resident("VmRSS")


def resident(name: str) -> int:
    """Bytes of one line of the status that Linux keeps of this process, such as ``VmRSS``."""
    return next(1024 * int(line.split()[1]) for line in STATUS.read_text().splitlines() if line.startswith(name))
