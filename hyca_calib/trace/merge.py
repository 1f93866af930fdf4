"""One trace from parts of it that were recorded apart, on machines that share no storage."""

from collections.abc import Callable, Sequence

from hyca_calib.trace.commits import Commit, committed
from hyca_calib.trace.digests import MANIFEST, FileDigest
from hyca_calib.trace.documents import damaged, read_as
from hyca_calib.trace.finish import COST, finish
from hyca_calib.trace.folder import Folder, Where
from hyca_calib.trace.layout import LAYOUT, Layout
from hyca_calib.trace.request import Request
from hyca_calib.trace.shard_lock import Shard, shard_lock
from hyca_runtime.errors import TraceError


def merge_traces(
    parts: Sequence[Where], out: Where, on_samples: Callable[[int], None] = lambda done: None
) -> tuple[int, int]:
    """Copy the committed batches of `parts` into `out`, each once, and complete it if none is missing.

    Args:
        parts: traces of the same request, complete or not.

    Returns:
        How many samples `out` has now, and of how many.

    Raises:
        TraceError: the parts are of different requests or of different samplers, or a file is damaged.
    """
    folders = [Folder(part) for part in parts]
    request, target = Request.read(folders[0]), Folder(out)
    for folder in folders:
        Request.read(folder).settle(target)
    with shard_lock(target, Shard()):
        done = committed(target)
        on_samples(sum(len(request.batches[n]) for n in done))
        for folder in folders:
            if committed(folder):
                _settle(folder, target)
            for batch in sorted(committed(folder) - done):
                commit = Commit.read(folder, batch)
                _copy(folder, target, commit)
                done.add(batch)
                on_samples(len(commit.samples))
        if len(done) == len(request.batches) and not target.exists(MANIFEST):
            finish(target, request, Shard())
    return sum(len(request.batches[n]) for n in done), request.num_samples


def _settle(source: Folder, target: Folder) -> None:
    """Bring what is the same for all samples; where that is there, it is compared."""
    if target.exists(LAYOUT):
        differs = read_as(Layout, source, LAYOUT).differing(read_as(Layout, target, LAYOUT))
        if differs:
            raise TraceError(
                f"{source} was recorded with other {', '.join(differs)} than the parts before it, by another sampler, "
                "perhaps; trace it again with the others' model, or leave it out"
            )
    for key in (LAYOUT, COST):
        if not target.exists(key):
            target.write(key, source.read(key))


def _copy(source: Folder, target: Folder, commit: Commit) -> None:
    for key, digest in commit.files.items():
        content = source.read(key)
        if FileDigest.of(content) != digest:
            raise damaged(source, key, "is damaged")
        target.write(key, content)
    commit.write(target)
