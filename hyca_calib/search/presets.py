"""Published recipes, as their papers give them: a fixed interval and closed-form solvers, nothing fitted.

Each computes its first W steps, then every N-th; the budget decides N, and the papers' own settings
for a model W (`documented_warmup`). ``hyca`` is the method of arXiv 2510.04188: channels described on
the first steps of one prompt, clustered by k-means, and for every cluster the solver of a pool of five
with the least error one step ahead ("One-Time Choosing"). The paper leaves open how many clusters there
are (here: the silhouette decides, 2 to 8) and how a one-step formula serves a gap of many steps (here:
both ways, see `Multistep`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import silhouette_score

from hyca_calib.clusters import cluster
from hyca_calib.costs.budget import Budget
from hyca_calib.features.descriptors import describe_channels
from hyca_calib.search.assemble import assemble_section
from hyca_calib.search.candidate import Candidate, Settings
from hyca_calib.search.problem import Problem
from hyca_calib.search.replay import Multistep, forecast_error, grouped, rows_of, schedule_cost
from hyca_calib.search.taps import compile_rows
from hyca_runtime.plan import NetworkPlan
from hyca_runtime.schedule import Schedule
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

__all__ = [
    "PRESETS",
    "Preset",
    "choose_once",
    "documented_warmup",
    "interval_schedule",
    "preset_section",
    "published_schedule",
    "recipe_section",
]

Array = NDArray[np.float64]
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
    "hold": Preset((Hold(),), 1, "FORA, arXiv 2407.01425: reuse, every N-th step computed", warmups=False),
    "taylorseer": Preset((Newton(1),), 3, "TaylorSeer, arXiv 2503.06923: order 1, three first steps"),
    "foca": Preset((FoCa(),), 3, "FoCa, arXiv 2508.16211: BDF2 forecast, Heun correction"),
    "hicache": Preset((Hermite(1),), 3, "HiCache, arXiv 2508.16984: Hermite basis, order 1, contraction 0.5"),
    "hyca": Preset(
        (RungeKutta(), AdamsBashforth(2), Newton(1), BDF2(), AdamsMoulton()),
        3,
        "HyCa, arXiv 2510.04188: five solvers, k-means, One-Time Choosing",
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


def interval_schedule(num_steps: int, interval: int, warmup: int) -> Schedule:
    """The first `warmup` steps, then every `interval`-th."""
    return Schedule.from_steps(num_steps, [*range(warmup), *range(warmup - 1 + interval, num_steps, interval)])


def published_schedule(num_steps: int, count: int, warmup: int) -> Schedule:
    """The first `warmup` steps, then every N-th, with the least N that needs at most `count` steps."""
    warmup = min(warmup, count)
    for interval in range(1, num_steps + 1):
        schedule = interval_schedule(num_steps, interval, warmup)
        if len(schedule.computed_steps) <= count:
            return schedule
    return Schedule.from_steps(num_steps, range(warmup))


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
    trace = problem.trace
    depth = max(solver.depth for solver in preset.pool)
    count = budget.computed_steps(trace.cost, trace.num_steps, depth)
    leading = warmup or documented_warmup(preset, trace.attributes.model.transformer, trace.num_steps)
    schedule = published_schedule(trace.num_steps, count, leading)
    groups, solvers, _ = chosen = _chosen(problem, preset, schedule, seed, multistep)
    judged, times = grouped(problem.select, problem.channel_gain, groups), problem.times("step")
    cost = float(schedule_cost(judged, schedule, times, problem.step_weights, solvers).sum())
    candidate = Candidate(_settings(preset, len(groups), leading), schedule, cost)
    return candidate, assemble_section(problem, candidate, list(zip(*chosen, strict=True)))


def recipe_section(
    problem: Problem, preset: Preset, interval: int, warmup: int, seed: int, multistep: Multistep = "anchored"
) -> NetworkPlan:
    """The published recipe with its own numbers, N and W, as a section of a plan; it looks at one sample only."""
    schedule = interval_schedule(problem.trace.num_steps, interval, warmup)
    chosen = _chosen(problem, preset, schedule, seed, multistep)
    candidate = Candidate(_settings(preset, len(chosen[0]), warmup), schedule, math.nan)
    return assemble_section(problem, candidate, list(zip(*chosen, strict=True)))


def _chosen(
    problem: Problem, preset: Preset, schedule: Schedule, seed: int, multistep: Multistep
) -> tuple[list[NDArray[np.int64]], list[Solver], list[ClosedFormSolver]]:
    """Groups of channels, the solver of each as `schedule` needs it, and its closed form."""
    groups, closed = choose_once(problem, preset.pool, seed)
    times = problem.times("step")
    solvers: list[Solver] = [
        compile_rows(solver, schedule, times, multistep) if multistep == "recursive" else solver for solver in closed
    ]
    return groups, solvers, closed


def _settings(preset: Preset, groups: int, warmup: int) -> Settings:
    depth = max(solver.depth for solver in preset.pool)
    return Settings(groups=groups, descriptors="+".join(PAPER_DESCRIPTORS), depth=depth, axis="step", start=warmup)


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
    groups = max(options, key=lambda found: _silhouette(descriptors, found))
    history = tuple(range(target - 1, -1, -1))
    times = problem.times("step")
    errors = []
    for solver in pool:
        rows = rows_of(solver, times, history, (target,))[:, 0]
        errors.append(forecast_error(probe, np.broadcast_to(rows, (len(channels), len(rows))), history, target))
    best = [int(np.argmin([error[group].mean() for error in errors])) for group in groups]
    return groups, [pool[i] for i in best]


def _silhouette(descriptors: Array, groups: list[NDArray[np.int64]]) -> float:
    labels = np.zeros(len(descriptors), dtype=np.int64)
    for i, group in enumerate(groups):
        labels[group] = i
    return float(silhouette_score(descriptors, labels)) if 1 < len(groups) < len(labels) else -1.0
