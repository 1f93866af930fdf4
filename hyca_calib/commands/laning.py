"""Lanes of one sample, measured: their quality against passes and calls of the network."""

import math
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel

from hyca_calib.commands.lane_options import LanesOptions
from hyca_calib.lanes.measure import Bench, LaneRow, with_best
from hyca_calib.lanes.surrogate import Reaction, search_starts, surrogate_error, watch
from hyca_calib.pipelines.defaults import batch_of, prompts_of
from hyca_calib.pipelines.load import load_pipeline
from hyca_calib.pipelines.rollout import device_of
from hyca_calib.pipelines.workload import SHARES, Workload, WorkloadSummary
from hyca_calib.records.atomic import write_text
from hyca_calib.records.console import say
from hyca_calib.records.provenance import Provenance, provenance
from hyca_runtime import Plan, load_plan
from hyca_runtime.errors import WorkloadError
from hyca_runtime.samplers import Lanes, as_lanes

EXPLAINED = (
    "Passes and calls of the network are counted; nothing here is a time. A sample waits for the passes on which any "
    "lane computes; calls are the work of all devices together. In bold: nothing that computes on as many passes or "
    "fewer agrees better."
)


class Starts(BaseModel, frozen=True):
    """Where lanes begin, and what the surrogate says of that: the error in dB under that of the published starts."""

    way: str
    starts: tuple[int, ...]
    passes: int
    surrogate_db: float


class LanesTable(BaseModel, frozen=True):
    """What ``hyca lanes`` found; nothing in it is a time."""

    model: str
    plan: str | None
    num_steps: int
    samples: int
    workload: WorkloadSummary
    starts: tuple[Starts, ...]
    rows: tuple[LaneRow, ...]
    provenance: Provenance


def measure_lanes(options: LanesOptions) -> LanesTable:
    """``hyca_calib lanes``.

    Raises:
        WorkloadError: options that cannot be read, or too few prompts.
        PlanError: the plan is for other steps, or has several points.
        SamplerError: the model's sampler cannot be run in lanes, or no lanes are as fast as asked.
    """
    plans = {str(path): load_plan(path) for path in options.plans or ()}
    passes, every = _numbers("passes", options.passes or ""), _numbers("every", options.every)
    lists = [as_lanes(count, options.steps) for count in _numbers("lanes", options.lanes)]
    workload, batch = _workload(options), batch_of(options.model, options.batch)
    pipe = load_pipeline(options.model, options.device, options.download)
    jobs = workload.of("test")[: options.samples]
    reaction = watch(pipe, workload.of("select")[: options.watched], options.steps, batch)
    starts = [each for published in lists for each in _starts(reaction, published, passes or _usual(published))]
    bench = Bench.of(pipe, jobs, options.steps, batch)
    rows = list[LaneRow]()
    for row in _rows(bench, plans, starts, every):
        rows.append(row)
        say(f"{row.mean_db:6.2f} dB  {row.computed_passes:3d} of {row.passes:3d} passes computed  {row.way}")
    return LanesTable(
        model=options.model,
        plan=next(iter(plans), None),
        num_steps=options.steps,
        samples=len(jobs),
        workload=workload.describe(),
        starts=tuple(starts),
        rows=tuple(with_best(rows)),
        provenance=provenance(str(device_of(pipe))),
    )


def _workload(options: LanesOptions) -> Workload:
    """A workload whose splits have as many samples as are asked for."""
    needed = (options.samples / SHARES["test"], options.watched / SHARES["select"])
    samples = math.ceil(max(1, *needed)) * sum(SHARES.values())
    return Workload(prompts_of(options.model, options.prompts), samples, options.steps, options.seed)


def _numbers(name: str, text: str) -> list[int]:
    try:
        found = [int(part) for part in text.split(",") if part.strip()]
    except ValueError:
        found = [0]
    if any(number < 1 for number in found):
        raise WorkloadError(f"--{name}: expected whole numbers from 1 on, with commas between, got {text!r}")
    return found


def _usual(published: Lanes) -> list[int]:
    fast = published.passes(1)
    return [fast, max(len(published), 3 * fast // 4)]


def _starts(reaction: Reaction, published: Lanes, passes: list[int]) -> list[Starts]:
    before, count = surrogate_error(reaction, published), len(published)

    def told(way: str, lanes: Lanes) -> Starts:
        gained = 10 * math.log10(max(before, 1e-300) / max(surrogate_error(reaction, lanes), 1e-300))
        return Starts(way=f"{count} {way}", starts=lanes.starts, passes=lanes.passes(1), surrogate_db=gained)

    searched = ((number, search_starts(reaction, count, number)) for number in passes)
    return [told("published", published), *(told(f"searched for {number} passes", found) for number, found in searched)]


def _rows(bench: Bench, plans: dict[str, Plan], starts: list[Starts], every: list[int]) -> Iterator[LaneRow]:
    """Lanes without and with the first plan, all plans alone, and the sampler with as few steps as these compute."""
    steps, plan = set[int](), next(iter(plans.values()), None)
    for each in {each.starts: each for each in reversed(starts)}.values():  # a search may find what is published
        lanes = Lanes(bench.num_steps, each.starts)
        found = bench.lanes(f"lanes: {each.way}", lanes)
        if plan is not None:
            found += bench.plan_in_lanes(plan, lanes, f"lanes: {each.way}, the plan at its steps")
            for number in every:
                found += bench.aligned(plan, lanes, number, f"lanes: {each.way}, computed on every {number} passes")
        steps |= {row.computed_passes for row in found}
        yield from found
    for name, each_plan in plans.items():
        alone = bench.plan_alone(each_plan, f"plan alone, {name}")
        steps.add(alone.computed_passes)
        yield alone
    for number in sorted(steps - {bench.num_steps}):
        yield bench.fewer_steps(number)


def lanes_page(table: LanesTable) -> str:
    """The table, as Markdown."""
    told = f"{table.samples} samples, {table.num_steps} steps, plan: {table.plan or 'none'}"
    lines = [
        f"Lanes of one sample: `{table.model}`, {told}.",
        EXPLAINED,
        "",
        "| lanes | starts | passes | surrogate, dB over published |",
        "| --- | --- | ---: | ---: |",
        *(f"| {s.way} | {' '.join(map(str, s.starts))} | {s.passes} | {s.surrogate_db:+.1f} |" for s in table.starts),
        "",
        "| way | passes | computed | fewer by | calls | computed | mean dB | worst |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
        *(_line(row, table.num_steps) for row in table.rows),
    ]
    return "\n".join(lines) + "\n"


def _line(row: LaneRow, steps: int) -> str:
    mark = "**" if row.best else ""
    return (
        f"| {mark}{row.way}{mark} | {row.passes} | {row.computed_passes} | {steps / row.computed_passes:.2f}x | "
        f"{row.calls} | {row.computed_calls} | {row.mean_db:.2f} | {min(row.db):.2f} |"
    )


def write_lanes(table: LanesTable, out: Path) -> None:
    """The table as JSON, and as a page beside it."""
    write_text(out, table.model_dump_json(indent=1) + "\n")
    write_text(out.with_suffix(".md"), lanes_page(table))
