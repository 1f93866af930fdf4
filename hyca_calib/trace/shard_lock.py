"""One writer for each share of a trace.

Shares are disjoint by layout, so writers need no lock against each other; a claim only keeps the same
share from being traced twice at once, which would be work for nothing.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from hyca_calib.trace.folder import Folder
from hyca_runtime.errors import TraceError

__all__ = ["LOCKS", "Share", "claimed", "nobody_else"]

LOCKS = ".locks"
HEARTBEAT_S, STALE_S = 15.0, 60.0
"""On object stores a claim is an object that is written again and again; an old one is a dead writer's."""
PATIENCE_S = 2.0
"""A claim waits so long for `nobody_else` to be over."""


@dataclass(frozen=True)
class Share:
    """The batches of which this process takes care: every `world`-th one, from `rank` on."""

    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world:
            raise TraceError(f"there is no share {self.rank + 1} of {self.world}")

    def __str__(self) -> str:
        return f"{self.rank}-of-{self.world}"

    def takes(self, batch: int) -> bool:
        return batch % self.world == self.rank

    @classmethod
    def parse(cls, text: str) -> Share:
        """``"3/8"``: the third of eight.

        Raises:
            TraceError: anything else.
        """
        rank, _, world = text.partition("/")
        if not (rank.isdecimal() and world.isdecimal()):
            raise TraceError(f"--share {text!r}: expected K/N, such as 3/8")
        return cls(int(rank) - 1, int(world))

    @classmethod
    def of_launcher(cls) -> Share:
        """What torchrun, accelerate launch and their like say in the environment."""
        return cls(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))


@contextmanager
def claimed(folder: Folder, share: Share) -> Iterator[None]:
    """Hold the share.

    Raises:
        TraceError: somebody else has it, or a trace with another number of shares is under way.
    """
    path = folder.local
    with _locked(path, share) if path is not None else _kept_alive(folder, share):
        yield


@contextmanager
def _locked(path: Path, share: Share) -> Iterator[None]:
    """The system frees these locks when a process ends, however it ends."""
    locks = path / LOCKS
    try:
        locks.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            stack.enter_context(FileLock(locks / f"{share}.lock", timeout=PATIENCE_S))
            for other in locks.glob("*-of-*.lock"):
                if not other.stem.endswith(f"-of-{share.world}"):
                    with FileLock(other, timeout=PATIENCE_S):
                        pass
            yield
    except Timeout as error:
        raise _taken(str(path), Path(error.lock_file).stem) from error
    except OSError as error:
        raise TraceError(f"{path}: cannot write here: {error.strerror or error}") from error


@contextmanager
def nobody_else(path: Path, share: Share) -> Iterator[bool]:
    """Whether no other process works on the trace in this folder, which stays so inside; for moments only."""
    with ExitStack() as stack:
        try:
            for other in sorted((path / LOCKS).glob("*-of-*.lock")):
                if other.stem != str(share):
                    stack.enter_context(FileLock(other, timeout=0))
        except Timeout:
            yield False
            return
        yield True


@contextmanager
def _kept_alive(folder: Folder, share: Share) -> Iterator[None]:
    key = f"{LOCKS}/{share}.json"
    me = {"host": socket.gethostname(), "pid": os.getpid()}
    for other in folder.listing(LOCKS):
        held = json.loads(folder.read(other))
        alive = time.time() - held["time"] < STALE_S and {"host": held["host"], "pid": held["pid"]} != me
        if alive and (other == key or not other.endswith(f"-of-{share.world}.json")):
            raise _taken(str(folder), f"{Path(other).stem}, by process {held['pid']} on {held['host']}")
    done = threading.Event()

    def beat() -> None:
        while True:
            with suppress(TraceError):  # the next one may get through
                folder.write(key, json.dumps({**me, "time": time.time()}).encode())
            if done.wait(HEARTBEAT_S):
                return

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        folder.delete(key)


def _taken(where: str, share: str) -> TraceError:
    return TraceError(
        f"{where} is being traced by another process (share {share}); wait for it, or choose another --out"
    )
