"""Where a trace lies: a local folder, or a prefix of an object store given by its URL (``s3://bucket/name.zarr``).

Keys are relative, with ``/``; a key that leads out of the folder is refused. Every write is atomic: a key
holds its old bytes or its new ones.
"""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fsspec.core import url_to_fs
from fsspec.implementations.dirfs import DirFileSystem
from fsspec.implementations.local import LocalFileSystem
from zarr.abc.store import Store
from zarr.storage import FsspecStore, LocalStore

from hyca_calib.records.atomic import PARTIAL, replacing
from hyca_runtime.errors import TraceError

Where = str | Path
PART = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9_.+-]+")


class Folder:
    """The files at a path or URL, by key; nothing need be there yet.

    The driver of an object store takes credentials from the environment, as it documents.

    Attributes:
        local: the path; None for an object store.

    Raises:
        TraceError: a URL of a kind that no installed driver knows.
    """

    def __init__(self, where: Where) -> None:
        self.local = None if "://" in str(where) else Path(where).absolute()
        self.where = str(where).rstrip("/") if self.local is None else str(Path(where))
        filesystem, root = _object_store(self.where) if self.local is None else (LocalFileSystem(), str(self.local))
        self._files = DirFileSystem(root, filesystem, skip_instance_cache=True)

    def __str__(self) -> str:
        return self.where

    def read(self, key: str) -> bytes:
        """Raises FileNotFoundError if it is not there, TraceError if it cannot be read."""
        with self.clear_errors(FileNotFoundError):
            name = _checked(key)
            if self.local is not None and not (self.local / name).resolve().is_relative_to(self.local.resolve()):
                raise TraceError(f"{self}: {key!r} leads out of the folder; expected a file or a link within it")
            return bytes(self._files.cat_file(name))

    def exists(self, key: str) -> bool:
        with self.clear_errors():
            self._files.fs.invalidate_cache()
            return bool(self._files.isfile(_checked(key)))

    def write(self, key: str, content: bytes) -> None:
        with self.clear_errors():
            if self.local is None:
                self._files.pipe_file(_checked(key), content)
            else:
                with replacing(self.local / _checked(key)) as partial:
                    partial.write_bytes(content)

    def delete(self, key: str) -> None:
        """Nothing happens if it is not there."""
        with self.clear_errors(), suppress(FileNotFoundError):
            self._files.rm_file(_checked(key))

    def listing(self, under: str = "") -> list[str]:
        """Keys of all files below, sorted; half-written ones are left out."""
        with self.clear_errors():
            if self.local is None:
                self._files.fs.invalidate_cache()
                return sorted(self._files.find(under))
            found = (p for p in (self.local / under).rglob("*") if p.is_file() and not p.name.endswith(PARTIAL))
            return sorted(p.relative_to(self.local).as_posix() for p in found)

    def stored_bytes(self, under: str) -> int:
        """Size of all files below."""
        with self.clear_errors():
            return int(self._files.du(under))

    def clear(self, but: str) -> None:
        """Delete everything but what lies under a name."""
        for key in self.listing():
            if not key.startswith(f"{but}/"):
                self.delete(key)
        with self.clear_errors():
            for empty in self.local.iterdir() if self.local is not None else ():
                if empty.is_dir() and empty.name != but:
                    shutil.rmtree(empty)

    def drop_partial(self) -> None:
        """Delete what killed processes left half written on a local disk; only while nobody writes."""
        with self.clear_errors():
            for path in self.local.rglob(f"*{PARTIAL}") if self.local is not None else ():
                path.unlink(missing_ok=True)

    def free_bytes(self) -> int | None:
        """Room for more; None if nobody knows."""
        if self.local is None:
            return None
        with self.clear_errors():
            return shutil.disk_usage(next(p for p in (self.local, *self.local.parents) if p.exists())).free

    def store(self, read_only: bool) -> Store:
        """The folder as Zarr sees it."""
        if self.local is None:
            return FsspecStore.from_url(self.where, read_only=read_only)
        return LocalStore(self.local, read_only=read_only)

    @contextmanager
    def clear_errors(self, *passing: type[Exception]) -> Iterator[None]:
        """What storage raises becomes one line; our own errors pass."""
        try:
            yield
        except Exception as error:  # OSError here; s3fs and botocore have their own kinds
            if isinstance(error, (TraceError, *passing)):
                raise
            told = " ".join(str(error).split())[:200]
            raise TraceError(f"{self}: {type(error).__name__}: {told}") from error


def _object_store(url: str) -> tuple[Any, str]:
    try:
        filesystem, root = url_to_fs(url)
    except (ImportError, ValueError) as error:
        kind = url.partition("://")[0]
        raise TraceError(f"{url}: cannot open {kind}:// ({error}); pip install the fsspec driver of it") from error
    return filesystem, root.rstrip("/")


def _checked(key: str) -> str:
    if not all(PART.fullmatch(part) for part in key.split("/")):
        raise TraceError(f"{key[:80]!r} is no key of a trace; expected names joined by '/'")
    return key
