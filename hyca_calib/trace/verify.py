"""Bit rot: every file of a trace against the digest it was written with."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from hyca_calib.trace.commits import COMMITS, Commit, committed
from hyca_calib.trace.digests import MANIFEST, UNCOUNTED, FileDigest, Manifest
from hyca_calib.trace.documents import REQUEST, read_as
from hyca_calib.trace.folder import Folder, Where
from hyca_calib.trace.request import Request
from hyca_runtime.errors import TraceError

DATA = ("points/", "across/", "times/", "latents/", f"{COMMITS}/")
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


def verify(where: Where, on_files: Callable[[int], None] = lambda read: None) -> list[Damage]:
    """Compare all files; of an incomplete trace those of its committed batches.

    Raises:
        TraceError: no trace, or one that no longer says what it was made for.
    """
    folder = Folder(where)
    if not folder.exists(REQUEST):
        raise TraceError(f"{folder}: no trace here, or its {REQUEST} is gone; give the path of a trace, or trace again")
    damages: list[Damage] = []
    expected: dict[str, FileDigest] = {}
    complete = folder.exists(MANIFEST)
    if complete:
        try:
            expected.update(read_as(Manifest, folder, MANIFEST).files)
        except TraceError:
            damages.append(Damage(MANIFEST, "changed"))
            complete = False
    owners = _accounts(folder)
    for batch in sorted(committed(folder)):
        account = Commit.key(batch)
        try:
            commit = Commit.read(folder, batch)
        except TraceError:
            damages.append(Damage(account, "changed", *owners.get(account, ())))
            continue
        for key, digest in commit.files.items():
            expected.setdefault(key, digest)
            owners[key] = (batch, commit.samples)
    there = {key for key in folder.listing() if not key.startswith(UNCOUNTED)}
    for key, digest in sorted(expected.items()):
        if key not in there:
            damages.append(Damage(key, "missing", *owners.get(key, ())))
        elif FileDigest.of(folder.read(key)) != digest:
            damages.append(Damage(key, "changed", *owners.get(key, ())))
        on_files(1)
    if complete:
        strangers = (key for key in there - expected.keys() if key.startswith(DATA))
        damages += [Damage(key, "unknown") for key in sorted(strangers)]
    return list(dict.fromkeys(damages))


def _accounts(folder: Folder) -> dict[str, tuple[int, tuple[int, ...]]]:
    """Batch and samples of every account that there should be, by key; none if the request is damaged."""
    try:
        batches = Request.read(folder).batches
    except TraceError:
        return {}
    return {Commit.key(n): (n, tuple(job.index for job in jobs)) for n, jobs in enumerate(batches)}


def discard(where: Where, damages: Iterable[Damage]) -> None:
    """Take damaged files, and the accounts of their batches, out of the trace: `trace` makes them again."""
    folder, found = Folder(where), list(damages)
    keys = [Commit.key(damage.batch) for damage in found if damage.batch is not None]
    for key in (MANIFEST, *keys, *(damage.key for damage in found)) if found else ():
        folder.delete(key)
