"""SHA-256 of what is written: taken on the way to the disk, and listed in the end."""

import hashlib
import json
from collections.abc import Mapping
from typing import NamedTuple, Self

from pydantic import BaseModel, model_validator
from zarr.abc.store import Store
from zarr.core.buffer import Buffer
from zarr.storage import WrapperStore

from hyca_calib.trace.documents import write_json
from hyca_calib.trace.folder import Folder
from hyca_calib.trace.run_log import RUNS
from hyca_calib.trace.shard_lock import LOCKS

MANIFEST = "manifest.json"
UNCOUNTED = (MANIFEST, f"{RUNS}/", f"{LOCKS}/")
"""Files that differ between equal traces."""


class FileDigest(NamedTuple):
    """What a file must hold."""

    size: int
    sha256: str

    @classmethod
    def of(cls, content: bytes) -> Self:
        return cls(len(content), hashlib.sha256(content).hexdigest())


class Witness(WrapperStore[Store]):
    """A Zarr store that remembers the digest of every key it was given."""

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self._seen: dict[str, FileDigest] = {}

    async def set(self, key: str, value: Buffer) -> None:
        await self._store.set(key, value)
        self._seen[key] = FileDigest.of(value.to_bytes())

    def take(self) -> dict[str, FileDigest]:
        """Everything written since the last call, in the order of the keys."""
        seen, self._seen = self._seen, {}
        return dict(sorted(seen.items()))


class Manifest(BaseModel, frozen=True):
    """What all files of a trace must hold, by key; written last, so that a trace with a manifest is complete."""

    files: dict[str, FileDigest]
    sha256: str

    @classmethod
    def of(cls, folder: Folder, known: Mapping[str, FileDigest]) -> Self:
        """The manifest of `folder`, of which the digests in `known` were taken when the files were written."""
        others = (key for key in folder.listing() if key not in known and not key.startswith(UNCOUNTED))
        files = dict(sorted({**known, **{key: FileDigest.of(folder.read(key)) for key in others}}.items()))
        return cls(files=files, sha256=_digest(files))

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.sha256 != _digest(self.files):
            raise ValueError("the digest of the list differs")
        return self

    def write(self, folder: Folder) -> None:
        write_json(folder, MANIFEST, self.model_dump())


def _digest(files: dict[str, FileDigest]) -> str:
    return hashlib.sha256(json.dumps(files).encode()).hexdigest()
