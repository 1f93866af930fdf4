"""SHA-256 of what is written, taken on the way to the disk."""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from zarr.abc.store import Store
from zarr.core.buffer import Buffer
from zarr.storage import WrapperStore

__all__ = ["FileDigest", "Witness"]


class FileDigest(NamedTuple):
    """What a file must hold."""

    size: int
    sha256: str

    @classmethod
    def of(cls, content: bytes) -> FileDigest:
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
