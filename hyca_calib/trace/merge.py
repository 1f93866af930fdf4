"""One trace from parts of it that were recorded apart, on machines that share no storage."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hyca_calib.trace.commits import Commit, committed
from hyca_calib.trace.digests import FileDigest
from hyca_calib.trace.finish import COST, MANIFEST, finish
from hyca_calib.trace.folder import Folder, Where, open_folder
from hyca_calib.trace.layout import FACTS
from hyca_calib.trace.request import Request
from hyca_calib.trace.shard_lock import Share, claimed
from hyca_runtime.errors import TraceError

__all__ = ["merge_traces"]


def merge_traces(
    parts: Sequence[Where], out: Where, on_samples: Callable[[int], None] = lambda done: None
) -> tuple[int, int]:
    """Copy the committed batches of `parts` into `out`, each once, and complete it if none is missing.

    Args:
        parts: traces of the same request, complete or not.

    Returns:
        How many samples `out` has now, and of how many.

    Raises:
        TraceError: the parts are of different requests, or a file is damaged.
    """
    folders = [open_folder(part) for part in parts]
    request, target = Request.read(folders[0]), open_folder(out)
    for folder in folders:
        Request.read(folder).settle(target)
    with claimed(target, Share()):
        done = committed(target)
        on_samples(sum(len(request.batches[n]) for n in done))
        for folder in folders:
            for batch in sorted(committed(folder) - done):
                commit = Commit.read(folder, batch)
                _copy(folder, target, commit)
                done.add(batch)
                on_samples(len(commit.samples))
        if len(done) == len(request.batches) and not target.exists(MANIFEST):
            finish(target, request, Share())
    return sum(len(request.batches[n]) for n in done), request.num_samples


def _copy(source: Folder, target: Folder, commit: Commit) -> None:
    for key in (FACTS, COST):
        if not target.exists(key):
            target.write(key, source.read(key))
    for key, digest in commit.files.items():
        content = source.read(key)
        if FileDigest.of(content) != digest:
            raise TraceError(f"{source}: {key} is damaged; mend it first: hyca verify {source} --repair")
        target.write(key, content)
    commit.write(target)
