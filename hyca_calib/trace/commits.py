"""The account of a batch: written after its files, so that a batch with an account is whole."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from hyca_calib.trace.digests import FileDigest
from hyca_calib.trace.documents import read_json, write_json
from hyca_calib.trace.folder import Folder
from hyca_runtime.errors import TraceError

__all__ = ["COMMITS", "Commit", "committed"]

COMMITS = "commits"


@dataclass(frozen=True)
class Commit:
    """One batch.

    Attributes:
        samples: what is in it.
        files: what it wrote.
        nonfinite: where NaN or infinity was, see `reduce`; these samples are in no statistics.
    """

    batch: int
    samples: tuple[int, ...]
    files: Mapping[str, FileDigest]
    nonfinite: Sequence[Mapping[str, Any]] = ()

    @staticmethod
    def key(batch: int) -> str:
        return f"{COMMITS}/{batch:06d}.json"

    @property
    def excluded(self) -> set[int]:
        """Samples that are in no statistics."""
        return {int(found["sample"]) for found in self.nonfinite}

    def write(self, folder: Folder) -> None:
        document = {
            "batch": self.batch,
            "samples": list(self.samples),
            "files": {key: self.files[key].to_json() for key in sorted(self.files)},
            "nonfinite": [dict(found) for found in self.nonfinite],
        }
        write_json(folder, self.key(self.batch), document)

    @classmethod
    def read(cls, folder: Folder, batch: int) -> Self:
        """Raises TraceError if it is missing or damaged."""
        document = read_json(folder, cls.key(batch))
        try:
            files = {str(key): FileDigest(int(size), str(sha)) for key, (size, sha) in document["files"].items()}
            found = cls(int(document["batch"]), tuple(map(int, document["samples"])), files, document["nonfinite"])
            if found.batch != batch or not all(isinstance(n, dict) and "sample" in n for n in found.nonfinite):
                raise ValueError("it is of another batch")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise TraceError(f"{folder}: {cls.key(batch)} is damaged ({type(error).__name__}: {error})") from error
        return found


def committed(folder: Folder) -> set[int]:
    """Batches that have an account."""
    names = (key.rsplit("/", 1)[-1].removesuffix(".json") for key in folder.listing(COMMITS))
    return {int(name) for name in names if name.isdecimal()}
