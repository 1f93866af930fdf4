"""Where a figure comes from: code, machine, software, day."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

import hyca_calib
import hyca_runtime

__all__ = ["code_digest", "command_line", "commit", "processor", "provenance", "versions"]

LIBRARIES = ("hyca", "torch", "diffusers", "cache-dit", "numpy", "scikit-learn", "optuna", "zarr")


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


def provenance(device: str) -> dict[str, Any]:
    """What a result file says of its making: code, day, machine, software.

    Args:
        device: the networks ran on it.
    """
    return {
        "commit": commit(),
        "code": code_digest(),
        "date": datetime.now(UTC).date().isoformat(),
        "device": torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu",
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }


@cache
def commit() -> str:
    """The commit of the source tree, marked where files differ from it; where there is no git, HYCA_COMMIT."""
    root = Path(__file__).parents[1]

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True, check=True)  # noqa: S603, S607
        return done.stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "hyca_calib", "hyca_runtime")
        return git("rev-parse", "--short=12", "HEAD") + (" with changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("HYCA_COMMIT", "unknown")


@cache
def code_digest() -> str:
    """Short digest of every source file of both packages: equal code, equal digest."""
    digest = hashlib.sha256()
    for package in (hyca_runtime, hyca_calib):
        root = Path(package.__path__[0])
        for path in sorted(root.rglob("*.py")):
            digest.update(f"{package.__name__}/{path.relative_to(root).as_posix()}".encode() + b"\0")
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def processor() -> str:
    """The CPU's name."""
    try:
        names = re.findall(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()
