"""The whole of ``hyca_calib trace``: sample in full, reduce, store, batch by batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

from hyca_calib.pipelines.workload import Workload
from hyca_calib.trace.arrays import Arrays
from hyca_calib.trace.commits import Commit, committed
from hyca_calib.trace.documents import write_json
from hyca_calib.trace.finish import COST, MANIFEST, finish
from hyca_calib.trace.folder import Folder, Where, open_folder
from hyca_calib.trace.layout import FACTS, Facts
from hyca_calib.trace.preflight import Needs
from hyca_calib.trace.recorder import Recorder
from hyca_calib.trace.reduce import reduced
from hyca_calib.trace.request import Request
from hyca_calib.trace.run_log import on_record
from hyca_calib.trace.shard_lock import Share, claimed
from hyca_calib.trace.staging import Staging
from hyca_calib.trace.writer import Writer
from hyca_runtime.errors import TraceError
from hyca_runtime.point import CachePoint

__all__ = ["GRAM_TOKENS", "trace"]

GRAM_TOKENS = 8192
PROBE_STEPS = 2


def trace(
    pipe: Any,
    workload: Workload,
    point: CachePoint,
    out: Where,
    *,
    model_name: str,
    batch: int,
    tokens: int,
    gram_tokens: int = GRAM_TOKENS,
    component: str = "transformer",
    overwrite: bool = False,
    force: bool = False,
    share: Share | None = None,
    on_needs: Callable[[Needs], None] = lambda needs: None,
    on_samples: Callable[[int], None] = lambda done: None,
) -> bool:
    """Record `workload` at `point` into `out`; goes on where an earlier call was interrupted.

    Memory: the features of one batch and the buffers of two, independent of the number of samples.

    Args:
        out: a folder or a URL.
        batch: samples in one pipeline call, and in one unit of storage.
        tokens: tokens of each sample whose features are stored.
        gram_tokens: of more tokens in one network call a random subset enters the statistics.
        component: which of the pipeline's networks.
        overwrite: replace what is at `out`.
        force: begin even if it will not fit.
        share: the batches to take care of; default: all, or what a launcher such as torchrun gave this process.
        on_needs: told the needs before the first sample.
        on_samples: told how many samples were there, then how many each batch adds.

    Returns:
        Whether the trace is complete; not while other shares are missing.

    Raises:
        TraceError: `out` holds something else or is in use, the needs exceed what is free, or storage fails;
            what is committed by then is kept.
    """
    folder, share = open_folder(out), share or Share.of_launcher()
    request = Request.of(pipe, workload, point, model_name, component, batch, tokens, gram_tokens)
    if overwrite and folder.listing():
        if share.world > 1:
            raise TraceError(f"{folder} exists; with several processes delete it first instead of --overwrite")
        folder.clear()
    request.settle(folder)
    if folder.exists(MANIFEST):
        on_samples(request.num_samples)
        return True
    with claimed(folder, share):
        mine = {n for n in range(len(request.batches)) if share.takes(n)}
        done = committed(folder) & mine
        on_samples(sum(len(request.batches[n]) for n in done))
        known = folder.exists(FACTS) and folder.exists(COST)  # a repair may have taken them away
        if todo := sorted(mine - done) or ([] if known else sorted(mine)[:1]):
            _record(pipe, request, folder, todo, force, share, on_needs, on_samples)
        if len(committed(folder)) < len(request.batches):
            return False
        finish(folder, request, share)
        return True


def _record(
    pipe: Any,
    request: Request,
    folder: Folder,
    todo: Sequence[int],
    force: bool,
    share: Share,
    on_needs: Callable[[Needs], None],
    on_samples: Callable[[int], None],
) -> None:
    """Sample and store the batches in `todo`."""
    workload = request.workload
    with Recorder(pipe, request.point, request.gram_tokens, workload.seed, request.model["component"]) as recorder:
        probe = recorder.record(request.batches[0], PROBE_STEPS, workload.seed)
        needs = Needs.of(probe, request, len(todo), folder)
        on_needs(needs)
        if not force:
            needs.check()
        del probe
        about = {"device": str(recorder.device), "share": str(share), "batches": len(todo), "done": 0}
        with on_record(folder, about) as note:

            def commit(done: Commit) -> None:
                note["done"] += 1
                on_samples(len(done.samples))

            _batches(recorder, request, folder, todo, commit)


def _batches(
    recorder: Recorder, request: Request, folder: Folder, todo: Sequence[int], on_commit: Callable[[Commit], None]
) -> None:
    """While one batch is sampled, the one before is copied to the host, and the one before that is written."""
    writer = None
    with ExitStack() as stack:
        for number in todo:
            jobs = request.batches[number]
            seed, with_gain = request.workload.seed + number, number in request.gain_batches
            recording = recorder.record(jobs, request.workload.num_steps, seed, with_gain)
            if writer is None:
                facts = Facts.settled(folder, recording, request)
                if not folder.exists(COST):
                    write_json(folder, COST, asdict(recorder.measure_cost(jobs, len(facts.branches))))
                staging = Staging(recording.features[0][0][0].device)  # not that of weights, which may be offloaded
                writer = stack.enter_context(Writer(folder, Arrays.open(folder, request, facts), on_commit))
            facts.check(recording)
            tensors, nonfinite = reduced(recording, facts, [job.index for job in jobs])
            del recording
            writer.write(number, jobs, staging.stage(tensors), nonfinite)
            del tensors
