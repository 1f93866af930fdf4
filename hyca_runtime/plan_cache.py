"""Plans of a server: each file is read once, and again when it changed."""

from __future__ import annotations

import hashlib
import os
import re
import threading
from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple
from weakref import WeakValueDictionary

from hyca_runtime.errors import PlanError, PlanMismatchError
from hyca_runtime.plan import Plan, load_plan, plan_file

EXPECTED_DIGEST = re.compile(r"[0-9a-f]{12,64}")


class _Kept(NamedTuple):
    """A plan, the digest of the bytes it was read from, and how its file looked then."""

    stamp: tuple[int, ...]
    digest: str
    plan: Plan


class PlanCache:
    """Gives the same `Plan` object for a plan file as long as the file holds the same bytes.

    A session prepares a plan once for each object (`Session.following`), so a server should ask here
    for every request. Threads may share a cache: a file is read by one of them, and nobody waits for
    the reading of another file.

    Args:
        max_plans: files that are remembered; the least recently used one is forgotten.
    """

    def __init__(self, max_plans: int = 32) -> None:
        if max_plans < 1:
            raise ValueError(f"max_plans: expected at least 1, got {max_plans}")
        self._max_plans = max_plans
        self._kept: OrderedDict[Path, _Kept] = OrderedDict()
        self._readers: WeakValueDictionary[Path, threading.Lock] = WeakValueDictionary()
        self._guard = threading.Lock()

    def get(self, path: str | os.PathLike[str], digest: str | None = None) -> Plan:
        """The plan in a file.

        A file of unchanged size and times is not opened; otherwise, or where it is not the one that is expected,
        its bytes are hashed, and read as a plan only if they changed.

        Args:
            path: as for `load_plan`; a symbolic link is followed anew each time.
            digest: SHA-256 the file must have, in hexadecimal, or the first 12 or more digits of it.

        Raises:
            PlanMismatchError: the file has another digest. It was not read as a plan then.
            PlanError: from `load_plan`, or `digest` is not one. Nothing is remembered of it: the
                next call tries again.
        """
        expected = _expected(digest)
        file = plan_file(path).resolve()
        with self._guard:
            reader = self._readers.setdefault(file, threading.Lock())
        with reader:
            with self._guard:
                kept = self._kept.get(file)
            kept = _current(file, kept, expected)
            with self._guard:
                self._kept[file] = kept
                self._kept.move_to_end(file)
                while len(self._kept) > self._max_plans:
                    self._kept.popitem(last=False)
        return kept.plan


def _current(file: Path, kept: _Kept | None, expected: str) -> _Kept:
    """What `file` holds now, which is `kept` if its bytes are the same."""
    try:
        stat = file.stat()
        stamp = (stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino, stat.st_size)
        digest = kept.digest if kept is not None and kept.stamp == stamp else _digest(file)
        if not digest.startswith(expected) and not (digest := _digest(file)).startswith(expected):
            raise PlanMismatchError(
                f"{file}: expected a plan of SHA-256 {expected}, got {digest}; name the digest of this file, "
                "or put the other one back"
            )
        if kept is not None and kept.digest == digest:
            return kept._replace(stamp=stamp)
        plan = load_plan(file)
        if _digest(file) != digest:  # replaced between the two readings
            return _current(file, None, expected)
    except OSError as error:
        raise PlanError(f"{file}: cannot read the plan: {error.strerror}") from error
    return _Kept(stamp, digest, plan)


def _expected(digest: str | None) -> str:
    text = (digest or "").lower()
    if digest is not None and not EXPECTED_DIGEST.fullmatch(text):
        raise PlanError(f"digest: expected 12 to 64 hexadecimal digits of a SHA-256, got {digest[:80]!r}")
    return text


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
