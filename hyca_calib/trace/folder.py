"""Where a trace lies: a local folder, or a prefix of an object store given by its URL (``s3://bucket/name.zarr``).

Keys are relative, with ``/``; a key that leads out of the folder is refused. Every write is atomic: a key
holds its old bytes or its new ones.
"""

from __future__ import annotations

import os
import re
import shutil
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from zarr.abc.store import Store

from hyca_runtime.errors import TraceError

__all__ = ["Folder", "Where", "open_folder"]

Where = str | Path
PART = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9_.+-]+")
PARTIAL = ".partial"


class Folder(ABC):
    """Files by key."""

    def __init__(self, where: str) -> None:
        self.where = where

    def __str__(self) -> str:
        return self.where

    @property
    @abstractmethod
    def local(self) -> Path | None:
        """The folder's path, if it has one."""

    @abstractmethod
    def read(self, key: str) -> bytes:
        """Raises FileNotFoundError if it is not there, TraceError if it cannot be read."""

    @abstractmethod
    def write(self, key: str, content: bytes) -> None: ...

    @abstractmethod
    def delete(self, key: str) -> None:
        """Nothing happens if it is not there."""

    @abstractmethod
    def listing(self, under: str = "") -> list[str]:
        """Of all files below, sorted; half-written ones are left out."""

    @abstractmethod
    def stored_bytes(self, under: str) -> int:
        """Size of all files below."""

    @abstractmethod
    def clear(self) -> None:
        """Delete everything."""

    @abstractmethod
    def free_bytes(self) -> int | None:
        """Room for more; None if nobody knows."""

    @abstractmethod
    def store(self, read_only: bool) -> Store:
        """The folder for Zarr."""

    def exists(self, key: str) -> bool:
        try:
            self.read(key)
        except FileNotFoundError:
            return False
        return True

    @contextmanager
    def clear_errors(self, *passing: type[Exception]) -> Iterator[None]:
        """What storage raises becomes one line; our own errors pass."""
        try:
            yield
        except Exception as error:  # OSError here; s3fs and botocore have their own kinds
            if isinstance(error, (TraceError, *passing)):
                raise
            told = " ".join(str(error).split())[:200]
            raise TraceError(f"{self.where}: {type(error).__name__}: {told}") from error


class LocalFolder(Folder):
    """A folder of this machine, or a mounted one."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path))
        self._path = path

    @property
    def local(self) -> Path:
        return self._path

    def read(self, key: str) -> bytes:
        with self.clear_errors(FileNotFoundError):
            path = self._path.joinpath(*_parts(key))
            if not path.resolve().is_relative_to(self._path.resolve()):
                raise TraceError(f"{self.where}: {key!r} leads out of the folder")
            return path.read_bytes()

    def exists(self, key: str) -> bool:
        return self._path.joinpath(*_parts(key)).is_file()

    def write(self, key: str, content: bytes) -> None:
        path = self._path.joinpath(*_parts(key))
        partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}{PARTIAL}")
        with self.clear_errors():
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with partial.open("xb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                partial.replace(path)
            except BaseException:
                partial.unlink(missing_ok=True)
                raise

    def delete(self, key: str) -> None:
        with self.clear_errors():
            self._path.joinpath(*_parts(key)).unlink(missing_ok=True)

    def listing(self, under: str = "") -> list[str]:
        with self.clear_errors():
            found = (p for p in self._path.joinpath(under).rglob("*") if p.is_file() and not p.name.endswith(PARTIAL))
            return sorted(p.relative_to(self._path).as_posix() for p in found)

    def stored_bytes(self, under: str) -> int:
        return sum(self._path.joinpath(*_parts(key)).stat().st_size for key in self.listing(under))

    def clear(self) -> None:
        with self.clear_errors():
            shutil.rmtree(self._path)

    def free_bytes(self) -> int:
        with self.clear_errors():
            there = next(p for p in (self._path, *self._path.absolute().parents) if p.exists())
            return shutil.disk_usage(there).free

    def store(self, read_only: bool) -> Store:
        from zarr.storage import LocalStore

        return LocalStore(self._path, read_only=read_only)

    def drop_partial(self) -> None:
        """Delete what a killed process left half written; only while nobody writes."""
        with self.clear_errors():
            for path in self._path.rglob(f"*{PARTIAL}"):
                path.unlink(missing_ok=True)


class RemoteFolder(Folder):
    """An object store, through fsspec. Credentials come from the environment, as its driver documents."""

    def __init__(self, url: str) -> None:
        super().__init__(url.rstrip("/"))
        self._fs, self._root = _filesystem(self.where)

    @property
    def local(self) -> None:
        return None

    def read(self, key: str) -> bytes:
        with self.clear_errors(FileNotFoundError):
            return bytes(self._fs.cat_file(self._at(key)))

    def exists(self, key: str) -> bool:
        with self.clear_errors():
            self._fs.invalidate_cache()
            return bool(self._fs.isfile(self._at(key)))

    def write(self, key: str, content: bytes) -> None:
        with self.clear_errors():
            self._fs.pipe_file(self._at(key), content)

    def delete(self, key: str) -> None:
        with self.clear_errors():
            if self.exists(key):
                self._fs.rm_file(self._at(key))

    def listing(self, under: str = "") -> list[str]:
        with self.clear_errors():
            self._fs.invalidate_cache()
            found = self._fs.find(f"{self._root}/{under}".rstrip("/"))
            return sorted(path[len(self._root) + 1 :] for path in found)

    def stored_bytes(self, under: str) -> int:
        with self.clear_errors():
            return int(self._fs.du(f"{self._root}/{under}"))

    def clear(self) -> None:
        with self.clear_errors():
            self._fs.rm(self._root, recursive=True)

    def free_bytes(self) -> None:
        return None

    def store(self, read_only: bool) -> Store:
        from zarr.storage import FsspecStore

        return FsspecStore.from_url(self.where, read_only=read_only)

    def _at(self, key: str) -> str:
        return "/".join((self._root, *_parts(key)))


def open_folder(where: Where) -> Folder:
    """The folder at a path or URL; it need not exist.

    Raises:
        TraceError: a URL of a kind that no installed driver knows.
    """
    text = str(where)
    if "://" in text:
        return RemoteFolder(text)
    return LocalFolder(Path(where))


def _filesystem(url: str) -> tuple[Any, str]:
    import fsspec

    try:
        filesystem, root = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        kind = url.partition("://")[0]
        raise TraceError(f"{url}: cannot open {kind}:// ({error}); pip install the fsspec driver of it") from error
    return filesystem, root.rstrip("/")


def _parts(key: str) -> tuple[str, ...]:
    parts = tuple(key.split("/"))
    if not all(PART.fullmatch(part) for part in parts):
        raise TraceError(f"{key[:80]!r} is no key of a trace; expected names joined by '/'")
    return parts
