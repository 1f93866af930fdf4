"""One writer for each shard of a trace.

Shards are disjoint by layout, so writers need no lock against each other; a lock only keeps the same
shard from being traced twice at once, which would be work for nothing.
"""

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from filelock import FileLock, Timeout
from pydantic import BaseModel, Field, ValidationError

from hyca_calib.trace.folder import Folder
from hyca_runtime.errors import TraceError

LOCKS = ".locks"
HEARTBEAT_S, STALE_S = 15.0, 60.0
"""On object stores a lock is an object that is written again and again; an old one is a dead writer's."""
PATIENCE_S = 2.0
"""A lock waits so long for `sole_writer` to be over."""


@dataclass(frozen=True)
class Shard:
    """The batches of which this process takes care: every `world`-th one, from `rank` on."""

    rank: int = 0
    world: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.world:
            raise TraceError(f"share {self.rank + 1}/{self.world}: expected K/N with K from 1 to N, such as 3/8")

    def __str__(self) -> str:
        return f"{self.rank}-of-{self.world}"

    def takes(self, batch: int) -> bool:
        return batch % self.world == self.rank

    @classmethod
    def parse(cls, text: str) -> Self:
        """The shard that a user calls ``3/8``: the third of eight.

        Raises:
            TraceError: anything else.
        """
        rank, _, world = text.partition("/")
        if not (rank.isdecimal() and world.isdecimal()):
            raise TraceError(f"--share {text!r}: expected K/N, such as 3/8")
        return cls(int(rank) - 1, int(world))

    @classmethod
    def of_launcher(cls) -> Self:
        """What torchrun, accelerate launch and their like say in the environment."""
        return cls(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))


@contextmanager
def shard_lock(folder: Folder, shard: Shard) -> Iterator[None]:
    """Nobody else works on the shard inside.

    Raises:
        TraceError: somebody else does, or works on a trace with another number of shards.
    """
    with _locked_file(folder, folder.local, shard) if folder.local is not None else _heartbeat(folder, shard):
        yield


@contextmanager
def _locked_file(folder: Folder, path: Path, shard: Shard) -> Iterator[None]:
    """The system frees these locks when a process ends, however it ends."""
    locks = path / LOCKS
    try:
        locks.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            stack.enter_context(FileLock(locks / f"{shard}.lock", timeout=PATIENCE_S))
            for other in locks.glob("*-of-*.lock"):
                if not other.stem.endswith(f"-of-{shard.world}"):
                    with FileLock(other, timeout=PATIENCE_S):
                        pass
            yield
    except Timeout as error:
        raise _taken(folder, Path(error.lock_file).stem) from error
    except OSError as error:
        raise TraceError(f"{folder}: cannot write here: {error.strerror or error}") from error


@contextmanager
def sole_writer(folder: Folder, shard: Shard) -> Iterator[bool]:
    """Whether no other process works on a trace on this machine, which stays so inside; for moments only."""
    with ExitStack() as stack:
        try:
            for other in sorted((folder.local / LOCKS).glob("*-of-*.lock")) if folder.local is not None else ():
                if other.stem != str(shard):
                    stack.enter_context(FileLock(other, timeout=0))
        except Timeout:
            yield False
            return
        yield True


class _Heartbeat(BaseModel, frozen=True):
    """A sign of life that a writer gives."""

    host: str = Field(default_factory=socket.gethostname)
    pid: int = Field(default_factory=os.getpid)
    time: float = Field(default_factory=time.time)


@contextmanager
def _heartbeat(folder: Folder, shard: Shard) -> Iterator[None]:
    key, mine = f"{LOCKS}/{shard}.json", _Heartbeat()
    for other in folder.listing(LOCKS):
        with suppress(FileNotFoundError, ValidationError):  # its writer is done by now; it is no lock
            held = _Heartbeat.model_validate_json(folder.read(other))
            alive = mine.time - held.time < STALE_S and (held.host, held.pid) != (mine.host, mine.pid)
            if alive and (other == key or not other.endswith(f"-of-{shard.world}.json")):
                raise _taken(folder, f"{Path(other).stem}, by process {held.pid} on {held.host}")
    done = threading.Event()

    def beat() -> None:
        with suppress(TraceError):  # the next one may get through
            folder.write(key, _Heartbeat().model_dump_json().encode())

    def beat_on() -> None:
        while not done.wait(HEARTBEAT_S):
            beat()

    beat()
    thread = threading.Thread(target=beat_on, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        folder.delete(key)


def _taken(folder: Folder, shard: str) -> TraceError:
    return TraceError(
        f"{folder} is being traced by another process (share {shard}); wait for it, or choose another --out"
    )
