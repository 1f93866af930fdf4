"""The whole of ``hyca_calib trace``: sample in full, reduce, store, batch by batch."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from hyca_calib.pipelines.contract import check_calls
from hyca_calib.pipelines.load import TracedModel
from hyca_calib.pipelines.short_runs import shortest
from hyca_calib.pipelines.workload import Job, Workload
from hyca_calib.trace.alike import check_alike
from hyca_calib.trace.commits import Commit, committed
from hyca_calib.trace.digests import MANIFEST
from hyca_calib.trace.documents import write_json
from hyca_calib.trace.finish import COST, finish
from hyca_calib.trace.folder import Folder, Where
from hyca_calib.trace.layout import LAYOUT, Layout
from hyca_calib.trace.preflight import Preflight
from hyca_calib.trace.recorder import Recorder
from hyca_calib.trace.recording import Recording
from hyca_calib.trace.request import Request, holds_trace
from hyca_calib.trace.run_log import run_log
from hyca_calib.trace.shard_lock import LOCKS, Shard, shard_lock
from hyca_calib.trace.streamed import Which
from hyca_calib.trace.writer import Writer
from hyca_runtime.errors import TraceError
from hyca_runtime.point import CachePoint

GRAM_TOKENS = 8192


def trace(
    pipe: Any,
    workload: Workload,
    points: CachePoint | Sequence[CachePoint],
    out: Where,
    *,
    model_name: str,
    batch: int,
    tokens: int,
    gram_tokens: int = GRAM_TOKENS,
    across: bool = False,
    chunks: Which = "all",
    component: str = "transformer",
    overwrite: bool = False,
    force: bool = False,
    shard: Shard | None = None,
    on_preflight: Callable[[Preflight], None] = lambda preflight: None,
    on_samples: Callable[[int], None] = lambda done: None,
) -> bool:
    """Record `workload` at one point or several into `out`; goes on where an earlier call was interrupted.

    Memory: the features of one batch and the buffers of two, independent of the number of samples.

    Args:
        batch, tokens, gram_tokens, across, chunks: see `Request`.
        shard: the batches to take care of; default: all, or what a launcher such as torchrun gave this process.
        on_preflight: told what the trace needs before the first sample.
        on_samples: told how many samples were there, then how many each batch adds.

    Returns:
        Whether the trace is complete; not while other shards are missing.

    Raises:
        WorkloadError: the pipeline cannot be called with a prompt's arguments.
        TraceError: `out` holds something else or is in use, the trace needs more than is free, or storage fails.
    """
    check_calls(pipe, workload.prompts)
    folder, shard, model = Folder(out), shard or Shard.of_launcher(), TracedModel.of(pipe, model_name, component)
    at = (points,) if isinstance(points, CachePoint) else tuple(dict.fromkeys(points))
    sizes = {"batch": batch, "tokens": tokens, "gram_tokens": gram_tokens}
    request = Request.asked(model=model, points=at, workload=workload, across=across, chunks=chunks, **sizes)
    if overwrite and folder.listing():
        _clear(folder, shard)
    request.settle(folder)
    if folder.exists(MANIFEST):
        on_samples(request.num_samples)
        return True
    with shard_lock(folder, shard):
        mine = {n for n in range(len(request.batches)) if shard.takes(n)}
        done = committed(folder) & mine
        on_samples(sum(len(request.batches[n]) for n in done))
        known = folder.exists(LAYOUT) and folder.exists(COST)  # a repair may have taken them away
        if todo := sorted(mine - done) or ([] if known else sorted(mine)[:1]):
            _record(pipe, request, folder, todo, force, shard, on_preflight, on_samples)
        if len(committed(folder)) < len(request.batches):
            return False
        finish(folder, request, shard)
        return True


def _clear(folder: Folder, shard: Shard) -> None:
    """Delete a trace, unless somebody works on it; nothing else."""
    if not (holds_trace(folder) or all(key.startswith(".") for key in folder.listing())):
        raise TraceError(f"{folder} holds no trace, and --overwrite replaces nothing else; choose another --out")
    if shard.world > 1:
        raise TraceError(f"{folder} exists; with several processes delete it first instead of --overwrite")
    with shard_lock(folder, shard):
        folder.clear(but=LOCKS)


def recorder_of(pipe: Any, request: Request) -> Recorder:
    """What records as is asked."""
    sizes = request.gram_tokens, request.workload.seed
    return Recorder(pipe, request.points, *sizes, request.model.component, request.chunks)


def probed(recorder: Recorder, workload: Workload, jobs: Sequence[Job]) -> tuple[Recording, int]:
    """A run of some samples, as short as it can be, and the steps that were asked for."""

    def run(steps: int) -> tuple[Recording, int]:
        return recorder.record(jobs, steps, workload.seed), steps

    return shortest(workload.num_steps, run, in_vain=lambda: recorder.saw_a_call)


def _record(
    pipe: Any,
    request: Request,
    folder: Folder,
    todo: Sequence[int],
    force: bool,
    shard: Shard,
    on_preflight: Callable[[Preflight], None],
    on_samples: Callable[[int], None],
) -> None:
    """Sample and store the batches in `todo`."""
    steps, seed = request.workload.num_steps, request.workload.seed
    with recorder_of(pipe, request) as recorder:
        short = partial(probed, recorder, request.workload)
        probe, _ = short(request.batches[0])
        preflight = Preflight.of(probe, request, len(todo), folder)
        on_preflight(preflight)
        if not force:
            preflight.check()
        if not folder.exists(LAYOUT):
            check_alike(request.workload, probe, lambda job: short([job])[0])
        del probe

        def sampled(number: int) -> Recording:
            return recorder.record(request.batches[number], steps, seed + number, number in request.gain_batches)

        about = {"device": str(recorder.device), "share": str(shard), "batches": len(todo), "done": 0}
        with run_log(folder, about) as note:

            def on_commit(done: Commit) -> None:
                note["done"] += 1
                on_samples(len(done.samples))

            first = sampled(todo[0])
            layout = Layout.settled(folder, first, request)
            if not folder.exists(COST):
                costs = recorder.measure_cost(request.batches[todo[0]], layout.calls)
                write_json(folder, COST, {key: asdict(cost) for key, cost in costs.items()})
            with Writer(folder, request, layout, first.device, on_commit) as writer:
                writer.write(todo[0], first)
                del first  # the features of two batches need not fit
                for number in todo[1:]:
                    writer.write(number, sampled(number))
