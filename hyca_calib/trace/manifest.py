"""The digests of all files of a trace; the manifest is written last, so a trace that has one is complete."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Self

from pydantic import BaseModel, model_validator

from hyca_calib.trace.commits import Commit
from hyca_calib.trace.digests import FileDigest
from hyca_calib.trace.documents import write_json
from hyca_calib.trace.folder import Folder
from hyca_calib.trace.run_log import RUNS
from hyca_calib.trace.shard_lock import LOCKS

__all__ = ["MANIFEST", "UNCOUNTED", "Manifest"]

MANIFEST = "manifest.json"
UNCOUNTED = (MANIFEST, f"{RUNS}/", f"{LOCKS}/")
"""Files that differ between equal traces."""


class Manifest(BaseModel, frozen=True):
    """What the files of a trace must hold, by key.

    Attributes:
        sha256: the digest of all that.
    """

    files: dict[str, FileDigest]
    sha256: str

    @classmethod
    def of(cls, folder: Folder, commits: Sequence[Commit] = ()) -> Self:
        """The manifest of what is in `folder`; files of batches as they were when written."""
        files = {key: digest for commit in commits for key, digest in commit.files.items()}
        for key in folder.listing():
            if key not in files and not key.startswith(UNCOUNTED):
                files[key] = FileDigest.of(folder.read(key))
        files = dict(sorted(files.items()))
        return cls(files=files, sha256=_digest(files))

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.sha256 != _digest(self.files):
            raise ValueError("its digest differs")
        return self

    def write(self, folder: Folder) -> None:
        write_json(folder, MANIFEST, self.model_dump())


def _digest(files: dict[str, FileDigest]) -> str:
    return hashlib.sha256(json.dumps(files).encode()).hexdigest()
