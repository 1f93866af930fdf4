"""How much memory a process ever held."""

from __future__ import annotations

from pathlib import Path

__all__ = ["peak_bytes"]


def peak_bytes() -> int:
    """The most resident memory of this process.

    On Linux from its status: ``getrusage`` there also counts the parent's memory, from before the exec. Elsewhere
    (macOS) from ``getrusage``.
    """
    status = Path("/proc/self/status")
    if status.exists():
        return next(1024 * int(line.split()[1]) for line in status.read_text().splitlines() if "VmHWM" in line)
    import resource  # Unix only

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
