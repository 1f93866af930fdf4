"""Timing whole runs of a pipeline: in full, and under plans that compute many and few steps."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from hyca_calib.costs.flops import TIMED_TAPS, TimedOn
from hyca_calib.costs.run_seconds import RunSeconds
from hyca_calib.pipelines.rollout import followed, runs_on
from hyca_calib.quality.evaluate import sampling_seconds
from hyca_calib.records.atomic import write_json
from hyca_calib.records.console import say
from hyca_calib.records.provenance import machine
from hyca_calib.trace.store import Trace
from hyca_runtime import Plan
from hyca_runtime.attach.points import find_transformer
from hyca_runtime.plain_section import plain_section
from hyca_runtime.precision import precision_of
from hyca_runtime.schedule import FEATURE, Schedule
from hyca_runtime.solvers import Newton

ROUNDS = 3
"""Of the three runs, in turn, after one that warms up."""
FEW, MANY = 8, 2
"""Intervals of computed steps of the two plans."""
FILE = "seconds.json"


def run_seconds(pipe: Any, trace: Trace) -> RunSeconds:
    """How long a sample takes here, in calls as large as the trace's, by the share of the network that is computed."""
    batch, traced = trace.attributes.batch, trace.attributes
    jobs, steps = trace.workload().of("fit")[:batch], trace.workload().num_steps
    module = find_transformer(pipe, traced.model.component)

    def plan(interval: int) -> tuple[float, Plan]:
        schedule = Schedule.every(trace.num_steps, interval)
        section = plain_section(
            module,
            {FEATURE: (trace.point, trace.num_channels)},
            trace.timesteps.tolist(),
            traced.scheduler_timesteps or None,
            schedule,
            traced.model.component,
            Newton(TIMED_TAPS - 1),
        )
        spent = trace.cost.flops_ratio(trace.num_steps, len(schedule.computed_steps), TIMED_TAPS)
        return 1 / spent, Plan(name=f"every {interval}", sections=(section,))

    (less, few), (more, many) = plan(FEW), plan(MANY)
    ways: tuple[Callable[[], AbstractContextManager[Any]], ...] = (
        nullcontext,
        lambda: followed(pipe, few),
        lambda: followed(pipe, many),
    )
    times = [[sampling_seconds(pipe, jobs, steps, batch, way) / len(jobs) for way in ways] for _ in range(ROUNDS + 1)]
    full, short, long = (statistics.median(column) for column in zip(*times[1:], strict=True))
    timed_on = TimedOn(machine(str(runs_on(pipe))), precision_of(module), len(jobs))
    found = RunSeconds.through(full, ((less, short), (more, long)), timed_on)
    say(f"a sample takes {full:.3g} s in full, {found.fixed:.3g} s of it beside the network; batches of {len(jobs)}")
    return found


def keep_seconds(folder: Path, trace: Trace, found: RunSeconds) -> None:
    """Keep what was measured of a trace's model for the studies in a folder."""
    write_json(folder / FILE, {trace.digest: found})


def kept_seconds(folder: Path, trace: Trace) -> RunSeconds | None:
    """What an earlier call measured for the studies in a folder, which goes on by it; None if there was none."""
    try:
        return TypeAdapter(dict[str, RunSeconds]).validate_json((folder / FILE).read_bytes()).get(trace.digest)
    except (OSError, ValidationError):
        return None
