"""Bit rot: every file of a trace against the digest it was written with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from hyca_calib.trace.commits import COMMITS, Commit, committed
from hyca_calib.trace.digests import FileDigest
from hyca_calib.trace.documents import read_json
from hyca_calib.trace.finish import MANIFEST, UNCOUNTED
from hyca_calib.trace.folder import Folder, Where, open_folder
from hyca_calib.trace.request import REQUEST, Request
from hyca_runtime.errors import TraceError

__all__ = ["Damage", "discard", "verify"]

DATA = ("points/", "times/", "latents/", f"{COMMITS}/")
"""Where a file that nobody wrote would be taken for data; others may lie beside."""

Kind = Literal["missing", "changed", "unknown"]


@dataclass(frozen=True)
class Damage:
    """A file that is not what it was.

    Attributes:
        kind: gone, of other content, or of no account at all.
        batch, samples: what it belongs to; a file of the whole trace belongs to none.
    """

    key: str
    kind: Kind
    batch: int | None = None
    samples: tuple[int, ...] = ()

    def __str__(self) -> str:
        of = f" (batch {self.batch}, samples {', '.join(map(str, self.samples))})" if self.batch is not None else ""
        return f"{self.kind}: {self.key}{of}"


def verify(where: Where, on_file: Callable[[int, int], None] = lambda done, total: None) -> list[Damage]:
    """Compare all files; of an incomplete trace those of its committed batches.

    Args:
        on_file: told how many of how many files were read.

    Raises:
        TraceError: no trace, or one that no longer says what it was made for.
    """
    folder = open_folder(where)
    if not folder.exists(REQUEST):
        raise TraceError(f"{folder}: no trace here, or its {REQUEST} is gone; trace again")
    expected, damages = _manifest(folder)
    all_listed = folder.exists(MANIFEST) and not damages
    owners: dict[str, Commit] = {}
    for batch in sorted(committed(folder)):
        try:
            commit = Commit.read(folder, batch)
        except TraceError:
            damages.append(_of_batch(folder, batch))
            continue
        for key, digest in commit.files.items():
            expected.setdefault(key, digest)
            owners[key] = commit
    there = {key for key in folder.listing() if not key.startswith(UNCOUNTED)}
    found = []
    for i, (key, digest) in enumerate(sorted(expected.items())):
        on_file(i, len(expected))
        if kind := _compare(folder, key, digest, there):
            found.append(_damage(folder, key, kind, owners.get(key)))
    damages += found
    if all_listed:
        strangers = (key for key in there - expected.keys() if key.startswith(DATA))
        damages += [Damage(key, "unknown") for key in sorted(strangers)]
    on_file(len(expected), len(expected))
    return list(dict.fromkeys(damages))


def discard(where: Where, damages: Iterable[Damage]) -> None:
    """Take damaged files, and the accounts of their batches, out of the trace: `trace` makes them again."""
    folder = open_folder(where)
    found: Sequence[Damage] = list(damages)
    if not found:
        return
    folder.delete(MANIFEST)
    for damage in found:
        if damage.batch is not None:
            folder.delete(Commit.key(damage.batch))
    for damage in found:
        folder.delete(damage.key)


def _manifest(folder: Folder) -> tuple[dict[str, FileDigest], list[Damage]]:
    if not folder.exists(MANIFEST):
        return {}, []
    try:
        document = read_json(folder, MANIFEST)
        listed = document["files"]
        if hashlib.sha256(json.dumps(listed).encode()).hexdigest() != document["sha256"]:
            raise TraceError("its digest differs")
        return {key: FileDigest(int(size), str(sha)) for key, (size, sha) in listed.items()}, []
    except (TraceError, KeyError, TypeError, ValueError, AttributeError):
        return {}, [Damage(MANIFEST, "changed")]


def _compare(folder: Folder, key: str, digest: FileDigest, there: set[str]) -> Kind | None:
    if key not in there:
        return "missing"
    return None if FileDigest.of(folder.read(key)) == digest else "changed"


def _damage(folder: Folder, key: str, kind: Kind, owner: Commit | None) -> Damage:
    if owner is not None:
        return Damage(key, kind, owner.batch, owner.samples)
    name = key.removeprefix(f"{COMMITS}/").removesuffix(".json")
    if key.startswith(COMMITS) and name.isdecimal():
        return _of_batch(folder, int(name), kind)
    return Damage(key, kind)


def _of_batch(folder: Folder, batch: int, kind: Kind = "changed") -> Damage:
    try:
        jobs = Request.read(folder).batches[batch]
    except (TraceError, IndexError):
        return Damage(Commit.key(batch), kind)
    return Damage(Commit.key(batch), kind, batch, tuple(job.index for job in jobs))
