"""One trace from parts of it that were recorded apart, on machines that share no storage."""

from collections.abc import Callable, Sequence

from hyca_calib.trace.commits import Commit, committed
from hyca_calib.trace.digests import MANIFEST, FileDigest
from hyca_calib.trace.documents import damaged
from hyca_calib.trace.finish import COST, finish
from hyca_calib.trace.folder import Folder, Where
from hyca_calib.trace.layout import LAYOUT
from hyca_calib.trace.request import Request
from hyca_calib.trace.shard_lock import Shard, shard_lock


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
    folders = [Folder(part) for part in parts]
    request, target = Request.read(folders[0]), Folder(out)
    for folder in folders:
        Request.read(folder).settle(target)
    with shard_lock(target, Shard()):
        done = committed(target)
        on_samples(sum(len(request.batches[n]) for n in done))
        for folder in folders:
            for batch in sorted(committed(folder) - done):
                commit = Commit.read(folder, batch)
                _copy(folder, target, commit)
                done.add(batch)
                on_samples(len(commit.samples))
        if len(done) == len(request.batches) and not target.exists(MANIFEST):
            finish(target, request, Shard())
    return sum(len(request.batches[n]) for n in done), request.num_samples


def _copy(source: Folder, target: Folder, commit: Commit) -> None:
    for key in (LAYOUT, COST):
        if not target.exists(key):
            target.write(key, source.read(key))
    for key, digest in commit.files.items():
        content = source.read(key)
        if FileDigest.of(content) != digest:
            raise damaged(source, key, "is damaged")
        target.write(key, content)
    commit.write(target)
