"""Traces: record, verify, merge."""

from collections.abc import Sequence

from hyca_calib.commands.options import TraceOptions
from hyca_calib.pipelines.defaults import batch_of, prompts_of
from hyca_calib.pipelines.load import load_pipeline, load_traced
from hyca_calib.pipelines.pipeline import Pipeline
from hyca_calib.pipelines.workload import Workload
from hyca_calib.records.console import counting, say
from hyca_calib.trace.folder import Folder
from hyca_calib.trace.merge import merge_traces
from hyca_calib.trace.request import Request
from hyca_calib.trace.run import trace
from hyca_calib.trace.shard_lock import Shard
from hyca_calib.trace.verify import Damage, discard, verify
from hyca_runtime.point import CachePoint, parse_point


def trace_model(options: TraceOptions) -> str:
    """``hyca_calib trace``; returns the trace's path or URL."""
    workload = Workload(prompts_of(options.model, options.prompts), options.samples, options.steps, options.seed)
    say(f"{options.prompts or options.model}: {len(workload.prompts)} prompts")
    trace_pipe(load_pipeline(options.model, options.device, options.download), workload, options)
    return options.where


def points_of(options: TraceOptions) -> list[CachePoint]:
    """The cache points that are asked for."""
    return [parse_point(text.strip()) for text in options.point.split(",")]


def trace_pipe(pipe: Pipeline, workload: Workload, options: TraceOptions) -> None:
    """Trace a pipeline, which options only name; the workload is not read from them, either."""
    shard = Shard.parse(options.share) if options.share else Shard.of_launcher()
    with counting("trace", len(workload.jobs) if shard.world == 1 else None) as advance:
        complete = trace(
            pipe,
            workload,
            points_of(options),
            options.where,
            model_name=options.model,
            batch=batch_of(options.model, options.batch),
            tokens=options.tokens,
            gram_tokens=options.gram_tokens,
            across=options.across,
            chunks=options.chunks,
            component=options.component,
            overwrite=options.overwrite,
            force=options.force,
            shard=shard,
            on_preflight=lambda preflight: say(f"{options.where}: needs {preflight}"),
            on_samples=advance,
        )
    if not complete:
        say(f"share {shard} is done; the last process to finish completes the trace")


def verify_trace(where: str, repair: bool, model: str | None, download: bool) -> list[Damage]:
    """``hyca_calib verify``; what is damaged, or still is after the repair, for which see `load_traced`."""
    with counting("verify", None) as advance:
        damages = verify(where, advance)
    for damage in damages:
        say(str(damage))
    if not damages or not repair:
        return damages
    request = Request.read(Folder(where))
    pipe = load_traced(request.model, model, download=download)
    discard(where, damages)
    with counting("repair", request.num_samples) as advance:
        trace(
            pipe,
            request.workload,
            request.points,
            where,
            model_name=request.model.name,
            batch=request.batch,
            tokens=request.tokens,
            gram_tokens=request.gram_tokens,
            across=request.across,
            chunks=request.chunks,
            component=request.model.component,
            shard=Shard(),
            on_samples=advance,
        )
    return verify(where)


def gather_parts(parts: Sequence[str], out: str) -> tuple[int, int]:
    """``hyca_calib gather``; how many samples the trace has now, and of how many."""
    with counting("gather", None) as advance:
        return merge_traces(parts, out, advance)
