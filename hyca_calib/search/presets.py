"""Published recipes, as their papers give them: a fixed interval and closed-form solvers, nothing fitted.

Each computes its first W steps, then every N-th; the budget decides N, and the papers' own settings
for a model W (`documented_warmup`). ``hyca`` is the method of arXiv 2510.04188: channels described on
the first steps of one prompt, clustered by k-means, and for every cluster the solver of a pool of five
with the least error one step ahead ("One-Time Choosing"). The paper leaves open how many clusters there
are (here: the silhouette decides, 2 to 8) and how a one-step formula serves a gap of many steps (here:
both ways, see `Multistep`).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hyca_calib.clusters import cluster
from hyca_calib.clusters.stability import labels_of, separation
from hyca_calib.costs.budget import Budget
from hyca_calib.features.descriptors import describe_channels
from hyca_calib.search.assemble import assemble_section
from hyca_calib.search.candidate import Candidate
from hyca_calib.search.problem import Problem
from hyca_calib.search.replay import Multistep, forecast_error, grouped, rows_of, schedule_cost
from hyca_calib.search.settings import Settings
from hyca_calib.search.sources import SOURCES
from hyca_calib.search.taps import compile_rows
from hyca_runtime.network_plan import NetworkPlan
from hyca_runtime.schedule import EVERY, FEATURE, Schedule
from hyca_runtime.solvers import (
    BDF2,
    AdamsBashforth,
    AdamsMoulton,
    ClosedFormSolver,
    FoCa,
    Hermite,
    Hold,
    Newton,
    RungeKutta,
    Solver,
)

PROBE_STEPS = 6
"""The "first few timesteps" a probe looks at; the step after them is the one that is predicted."""
PAPER_DESCRIPTORS = ("energy", "dynamics", "spectrum")


@dataclass(frozen=True)
class Preset:
    """A published recipe.

    Attributes:
        pool: its solvers; with more than one, channels are clustered.
        warmup: leading steps that are computed, on a model for which nothing is documented.
        source: paper, and the settings of its release for FLUX.
        warmups: whether the number of leading steps is that of `WARMUPS` where the model is known.
    """

    pool: tuple[ClosedFormSolver, ...]
    warmup: int
    source: str
    warmups: bool = True


PRESETS: dict[str, Preset] = {
    "hold": Preset((Hold(),), 1, SOURCES["hold"], warmups=False),
    "taylorseer": Preset((Newton(1),), 3, SOURCES["taylorseer"]),
    "foca": Preset((FoCa(),), 3, SOURCES["foca"]),
    "hicache": Preset((Hermite(1),), 3, SOURCES["hicache"]),
    "hyca": Preset(
        (RungeKutta(), AdamsBashforth(2), Newton(1), BDF2(), AdamsMoulton()),
        3,
        SOURCES["hyca"],
    ),
}

WARMUPS = {
    "FluxTransformer2DModel": 3,
    "QwenImageTransformer2DModel": 3,
    "HunyuanVideoTransformer3DModel": 1,
    "WanTransformer3DModel": 1,
    "DiTTransformer2DModel": 2,
}
"""Leading steps by model. HyCa's and FoCa's papers print FLOPs for 50 steps that are those of the scheduler of
TaylorSeer's release with its own number for the model (for Qwen-Image 2 or 3); Wan's and DiT's are that release's."""


def documented_warmup(preset: Preset, transformer: str, num_steps: int) -> int:
    """How many leading steps the recipe computes on a class of networks.

    At most a quarter of the run: the papers' few-step models have 1 of 4 (FLUX.1-schnell) and 2 of 8 (Qwen-Lightning).
    """
    known = WARMUPS.get(transformer, preset.warmup) if preset.warmups else preset.warmup
    return min(known, max(1, num_steps // 4))


def published_schedule(num_steps: int, count: int, warmup: int) -> Schedule:
    """The first `warmup` steps, then every N-th, with the least N that needs at most `count` steps."""
    warmup = min(warmup, count)
    schedules = (Schedule.every(num_steps, interval, warmup) for interval in range(1, num_steps + 1))
    within = (schedule for schedule in schedules if len(schedule.computed_steps) <= count)
    return next(within, Schedule.from_steps(num_steps, range(warmup)))


def preset_section(
    problem: Problem,
    preset: Preset,
    budget: Budget,
    seed: int,
    multistep: Multistep = "anchored",
    warmup: int | None = None,
) -> tuple[Candidate, NetworkPlan]:
    """The published recipe within `budget`, and the same as a section of a plan.

    Args:
        warmup: leading steps that are computed; the documented ones by default.

    Raises:
        BudgetError: not even one step can be computed.
    """
    trace, depth = problem.trace, max(solver.depth for solver in preset.pool)
    first = trace.attributes.first_computed
    count = budget.computed_steps(trace.cost, trace.num_steps, depth, first)
    leading = max(first, warmup or documented_warmup(preset, trace.attributes.model.transformer, trace.num_steps))
    schedule = published_schedule(trace.num_steps, count, leading)
    parts = _chosen(problem, preset, schedule, seed, multistep)
    groups, solvers = [channels for channels, _, _ in parts], [solver for _, solver, _ in parts]
    judged, times = grouped(problem.select, problem.channel_gain, groups), problem.times("step")
    cost = float(schedule_cost(judged, schedule, times, problem.step_weights, solvers).sum())
    described = "+".join(PAPER_DESCRIPTORS)
    settings = Settings(groups=len(groups), descriptors=described, depth=depth, axis="step", start=leading)
    candidate = Candidate(problem, settings, schedule, seed).knowing(groups, cost)
    return candidate, assemble_section(problem, schedule, "step", {(FEATURE, EVERY): parts})


def recipe_section(
    problem: Problem, preset: Preset, interval: int, warmup: int, seed: int, multistep: Multistep = "anchored"
) -> NetworkPlan:
    """The published recipe with its own numbers, N and W, as a section of a plan; it looks at one sample only."""
    schedule = Schedule.every(problem.trace.num_steps, interval, warmup)
    parts = _chosen(problem, preset, schedule, seed, multistep)
    return assemble_section(problem, schedule, "step", {(FEATURE, EVERY): parts})


def _chosen(
    problem: Problem, preset: Preset, schedule: Schedule, seed: int, multistep: Multistep
) -> list[tuple[NDArray[np.int64], Solver, Solver]]:
    """Channels of each group, their solver as `schedule` needs it, and its closed form."""
    groups, closed = choose_once(problem, preset.pool, seed)
    times = problem.times("step")
    return [
        (channels, compile_rows(solver, schedule, times, multistep) if multistep == "recursive" else solver, solver)
        for channels, solver in zip(groups, closed, strict=True)
    ]


def choose_once(
    problem: Problem, pool: tuple[ClosedFormSolver, ...], seed: int
) -> tuple[list[NDArray[np.int64]], list[ClosedFormSolver]]:
    """One-Time Choosing: clusters of one prompt's channels, and the solver each keeps for good."""
    channels = np.arange(problem.trace.num_channels)
    if len(pool) == 1:
        return [channels], [pool[0]]
    probe = problem.trace.sample_gram(problem.trace.samples("fit")[0])
    target = min(PROBE_STEPS, problem.trace.num_steps - 1)
    descriptors = describe_channels(probe[:, :target, :target], PAPER_DESCRIPTORS)
    options = [cluster("kmeans", descriptors, k, seed) for k in range(2, min(8, len(channels) - 1) + 1)]
    apart = [separation(descriptors, labels_of(found, len(channels))) for found in options]
    groups = options[int(np.argmax(np.nan_to_num(apart, nan=-1.0)))] if options else [channels]
    history = tuple(range(target - 1, -1, -1))
    times = problem.times("step")
    errors = []
    for solver in pool:
        rows = rows_of(solver, times, history, (target,))[:, 0]
        errors.append(forecast_error(probe, np.broadcast_to(rows, (len(channels), len(rows))), history, target))
    best = [int(np.argmin([error[group].mean() for error in errors])) for group in groups]
    return groups, [pool[i] for i in best]
