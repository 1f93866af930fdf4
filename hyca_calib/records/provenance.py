"""Where a figure comes from: code, machine, software, day."""

import ast
import hashlib
import os
import platform
import re
import shlex
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from pydantic import BaseModel

PACKAGES = ("hyca_runtime", "hyca_calib")
ROOT = Path(__file__).parents[2]
"""The folder that both packages are in."""
LIBRARIES = ("hyca", "torch", "diffusers", "cache-dit", "numpy", "scikit-learn", "optuna", "zarr")


class Provenance(BaseModel, frozen=True):
    """What a result file says of its making; files of other results have these facts beside their own.

    Attributes:
        commit, date: of the code, and the day; both empty in files from before they were kept.
        code: digest of every source file of both packages, see `code_digest`.
        device: the networks ran on it, the name of a GPU or ``cpu``.
        versions: installed versions of what decides a result, by name.
    """

    commit: str = ""
    code: str = ""
    date: str = ""
    device: str
    processor: str = ""
    threads: int
    versions: dict[str, str]

    @property
    def known(self) -> bool:
        """Whether the file says of which code and day it is."""
        return bool(self.commit and self.date)


def versions() -> dict[str, str]:
    """Installed versions of what decides a result."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        with suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def command_line() -> str:
    """How this process was started, without the interpreter's folder and passwords in URLs."""
    interpreter, *told = sys.orig_argv
    return re.sub(r"://[^@/\s]*@", "://", shlex.join([Path(interpreter).name, *told]))


def provenance(device: str) -> Provenance:
    """Facts of a result that is made now, by networks on `device`."""
    return Provenance(
        commit=commit(),
        code=code_digest(),
        date=datetime.now(UTC).date().isoformat(),
        device=torch.cuda.get_device_name(device) if device.startswith("cuda") else "cpu",
        processor=processor(),
        threads=torch.get_num_threads(),
        versions=versions(),
    )


def machine(device: str) -> str:
    """What seconds were measured on: the name of a GPU, or of the CPU with its threads."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    return f"{processor()} ({threads} thread{'s' * (threads > 1)})"


@cache
def commit() -> str:
    """The commit of the source tree, marked where files differ from it; where there is no git, HYCA_COMMIT."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=True)  # noqa: S603, S607
        return done.stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", "hyca_calib", "hyca_runtime")
        return git("rev-parse", "--short=12", "HEAD") + (" with changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("HYCA_COMMIT", "unknown")


@cache
def code_digest() -> str:
    """A short digest of every source file of both packages: equal code has an equal digest."""
    return _digest([path for package in PACKAGES for path in (ROOT / package).rglob("*.py")])


@cache
def code_of(*modules: str) -> str:
    """A short digest of these modules' files and of all files of ours that they import, directly or not.

    Args:
        modules: full names; those of other packages count for nothing, for `versions` tells of them.
    """
    found: set[Path] = set()
    wanted = list(modules)
    while wanted:
        path = _file(wanted.pop())
        if path is not None and path not in found:
            found.add(path)
            wanted += _imports(path)
    return _digest(list(found))


def _digest(paths: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in sorted(paths):
        digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def _file(module: str) -> Path | None:
    if not module.startswith(PACKAGES):
        return None
    place = ROOT.joinpath(*module.split("."))
    return next((path for path in (place.with_suffix(".py"), place / "__init__.py") if path.exists()), None)


def _imports(path: Path) -> list[str]:
    """Names that may be of modules; what is imported for type checkers alone is left out."""
    found: list[str] = []
    nodes: list[ast.AST] = [ast.parse(path.read_text())]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            found += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        nodes += ast.iter_child_nodes(node)
    return found


def processor() -> str:
    """The name of the CPU."""
    try:
        names = re.findall(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()
