"""Published recipes, as their papers give them: a fixed interval and closed-form solvers, nothing fitted.

Each computes its first W steps, then every N-th; the budget decides N. ``hyca`` is the method of
arXiv 2510.04188: channels described on the first steps of one prompt, clustered by k-means, and for
every cluster the solver of a pool of five with the least error one step ahead ("One-Time Choosing").
The paper leaves open how many clusters there are (here: the silhouette decides, 2 to 8) and how a
one-step formula serves a gap of many steps (here: both ways, see `Multistep`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import silhouette_score

from hyca_calib.budget import Budget
from hyca_calib.clusters import cluster
from hyca_calib.features.descriptors import describe_channels
from hyca_calib.replay import Multistep, forecast_error, grouped, rows_of, schedule_cost
from hyca_calib.search.assemble import assemble_section
from hyca_calib.search.candidate import Candidate, Settings
from hyca_calib.search.problem import Problem
from hyca_calib.search.taps import compile_rows
from hyca_runtime.plan import Section
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

__all__ = ["PRESETS", "Preset", "choose_once", "preset_section", "published_schedule"]

Array = NDArray[np.float64]
PROBE_STEPS = 6
"""The "first few timesteps" a probe looks at; the step after them is the one that is predicted."""
PAPER_DESCRIPTORS = ("energy", "dynamics", "spectrum")


@dataclass(frozen=True)
class Preset:
    """A published recipe.

    Attributes:
        pool: its solvers; with more than one, channels are clustered.
        warmup: leading steps that are computed.
        source: paper, and the settings of its release for FLUX.
    """

    pool: tuple[ClosedFormSolver, ...]
    warmup: int
    source: str


PRESETS: dict[str, Preset] = {
    "hold": Preset((Hold(),), 1, "FORA, arXiv 2407.01425: reuse, every N-th step computed"),
    "taylorseer": Preset((Newton(1),), 3, "TaylorSeer, arXiv 2503.06923: order 1, three first steps"),
    "foca": Preset((FoCa(),), 3, "FoCa, arXiv 2508.16211: BDF2 forecast, Heun correction"),
    "hicache": Preset((Hermite(1),), 3, "HiCache, arXiv 2508.16984: Hermite basis, order 1, contraction 0.5"),
    "hyca": Preset(
        (RungeKutta(), AdamsBashforth(2), Newton(1), BDF2(), AdamsMoulton()),
        3,
        "HyCa, arXiv 2510.04188: five solvers, k-means, One-Time Choosing",
    ),
}


def published_schedule(num_steps: int, count: int, warmup: int) -> Schedule:
    """The first `warmup` steps, then every N-th, with the least N that needs at most `count` steps."""
    warmup = min(warmup, count)
    for interval in range(1, num_steps + 1):
        computed = [*range(warmup), *range(warmup - 1 + interval, num_steps, interval)]
        if len(computed) <= count:
            return Schedule.from_steps(num_steps, computed)
    return Schedule.from_steps(num_steps, range(warmup))


def preset_section(
    problem: Problem, preset: Preset, budget: Budget, seed: int, multistep: Multistep = "anchored"
) -> tuple[Candidate, Section]:
    """The published recipe within `budget`, and the same as a section of a plan.

    Raises:
        BudgetError: not even one step can be computed.
    """
    trace = problem.trace
    depth = max(solver.depth for solver in preset.pool)
    schedule = published_schedule(
        trace.num_steps, budget.computed_steps(trace.cost, trace.num_steps, depth), preset.warmup
    )
    groups, chosen = choose_once(problem, preset.pool, seed)
    times = problem.times("step")
    compiled: list[Solver] = [
        compile_rows(solver, schedule, times, multistep) if multistep == "recursive" else solver for solver in chosen
    ]
    judged = grouped(problem.select, problem.channel_gain, groups)
    cost = float(schedule_cost(judged, schedule, times, problem.step_weights, compiled).sum())
    settings = Settings(
        groups=len(groups), descriptors="+".join(PAPER_DESCRIPTORS), depth=depth, axis="step", start=preset.warmup
    )
    candidate = Candidate(settings, schedule, cost)
    return candidate, assemble_section(problem, candidate, list(zip(groups, compiled, chosen, strict=True)))


def choose_once(
    problem: Problem, pool: tuple[ClosedFormSolver, ...], seed: int
) -> tuple[list[NDArray[np.int64]], list[ClosedFormSolver]]:
    """One-Time Choosing: clusters of one prompt's channels, and the solver each keeps for good."""
    channels = np.arange(problem.trace.num_channels)
    if len(pool) == 1:
        return [channels], [pool[0]]
    probe = problem.trace.sample_gram(0)
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
