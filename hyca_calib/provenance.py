"""Which software made a file."""

from __future__ import annotations

import platform
import re
import shlex
import sys
from importlib.metadata import PackageNotFoundError, version

__all__ = ["command_line", "versions"]

LIBRARIES = ("hyca", "torch", "diffusers", "numpy", "scikit-learn", "optuna", "zarr")


def versions() -> dict[str, str]:
    """Installed versions of what decides a result."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def command_line() -> str:
    """How this process was started, without passwords in URLs."""
    return re.sub(r"://[^@/\s]*@", "://", shlex.join(sys.orig_argv))
