"""Rows fitted to what runs under a policy forecast from, and refined by gradient through such runs.

What a run decides is held while gradients flow through it, and decided anew for the next.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from hyca_calib.pipelines.rollout import sample_latents
from hyca_calib.quality.metrics import log_error
from hyca_calib.search.options import Refinement
from hyca_calib.search.preconditioner import drawn_to_groups, preconditioned
from hyca_calib.search.problem import Problem, Samples
from hyca_calib.search.refine import RefinementTask, refine_taps
from hyca_calib.search.replay import Array, rows_of
from hyca_calib.search.rows import plan_taps, with_forecasts
from hyca_calib.search.rows import rows_of as rows_of_section
from hyca_calib.search.settings import Settings
from hyca_calib.search.step_caches.decided_run import Tables, as_decided, decided_run, pasts_met
from hyca_calib.search.tap_rollout import NotDifferentiableError, TapRollout
from hyca_calib.search.taps import fit_rows
from hyca_runtime.errors import TraceError
from hyca_runtime.group import DimensionGroup, encode_channels
from hyca_runtime.network_plan import NetworkPlan
from hyca_runtime.point import CachePoint
from hyca_runtime.schedule import EVERY
from hyca_runtime.solvers import FittedToPast, Newton

DEPTH = 3
"""Computed features that a row weighs."""
RUNS = 24
"""Fit samples from whose runs it is learnt what plans forecast from."""
BATCH = 6
"""Fit samples of one iteration; each runs alone, and twice."""


def check_traced(problem: Problem, point: CachePoint, preset: str) -> Problem:
    """The problem at a preset's point.

    Raises:
        TraceError: the trace is of others.
    """
    if point not in problem.trace.points:
        traced = ", ".join(f"'{at}'" for at in problem.trace.points)
        raise TraceError(
            f"--fitted: rows are fitted at '{point}', where {preset} forecasts, and the trace is of {traced}; "
            f"record one with hyca trace --point {point}"
        )
    return Problem(problem.trace.at(point))


def fitted_row(problem: Problem, past: Sequence[int], step: int) -> Array:
    """Least squares on the fit split, drawn towards linear extrapolation, ``(channel, past)``."""
    settings = Settings()
    prior = rows_of(Newton(1), problem.times(settings.axis), past, [step])
    return fit_rows(problem.fit, past, [step], settings.ridge, prior)[..., 0]


@dataclass(frozen=True)
class FittedTaps:
    """Rows of every channel for every past that runs have met.

    Attributes:
        weights: ``(past, DEPTH, channel)``, shorter pasts padded with zeros.
    """

    pasts: tuple[tuple[int, ...], ...]
    weights: Array

    @classmethod
    def for_runs(cls, problem: Problem, section: NetworkPlan, runs: Sequence[Tables]) -> Self:
        """Rows from the statistics for what some runs of a section met."""
        pasts = pasts_met(section, runs, DEPTH)
        weights = np.zeros((len(pasts), DEPTH, problem.trace.num_channels))
        for i, (step, *past) in enumerate(pasts):
            weights[i, : len(past)] = fitted_row(problem, past, step).T
        return cls(pasts, weights)

    @property
    def solver(self) -> FittedToPast:
        return FittedToPast(self.pasts, self.weights)

    @property
    def group(self) -> DimensionGroup:
        channels = encode_channels(range(self.weights.shape[2]))
        return DimensionGroup(name="all", channels=channels, solver=self.solver.spec())

    def of(self, section: NetworkPlan) -> NetworkPlan:
        """A section that forecasts its only point by these rows."""
        forecast = section.forecast.model_copy(update={"groups": {EVERY: (self.group,)}})
        return with_forecasts(section, {section.only: forecast})

    def places(self, decided: NetworkPlan) -> Tensor:
        """Which row serves each of those of a section, as it was decided, -1 for none, ``(row,)``."""
        solver, rows = self.solver, rows_of_section(decided)
        known = [solver.place([step for _, step in filter(None, row.regressors)], row.step) for row in rows]
        return torch.tensor([-1 if place is None else place for place in known])

    def coordinates(self, problem: Problem) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """Where refinement begins, and the way from there to weights; see `hyca_calib.search.preconditioner`."""
        places = tuple((list(past), step) for step, *past in self.pasts)
        together = torch.zeros(self.weights.shape[2], dtype=torch.int64)
        return drawn_to_groups(preconditioned(self.weights, places, problem.fit), together, self.weights.shape)


class DecidedCourse:
    """Runs of samples that decide for themselves, each alone; see `hyca_calib.search.refine.Course`."""

    def __init__(self, task: RefinementTask, checkpointed: bool, section: NetworkPlan, taps: FittedTaps) -> None:
        self._task, self._checkpointed, self._section, self._known = task, checkpointed, section, taps

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def follow(self, taps: Tensor) -> None:
        self._taps = taps
        self._known = replace(self._known, weights=taps.detach().double().cpu().numpy())
        self._now = self._known.of(self._section)

    def loss(self, chosen: list[int]) -> Tensor:
        return torch.stack([self._error(self._task.fit[[number]]) for number in chosen]).mean()

    def _error(self, sample: Samples) -> Tensor:
        with torch.no_grad():
            run = decided_run(self._task.pipe, self._now, sample.jobs[0], sample.num_steps)
        if not run.forecasts:  # nothing to learn
            return log_error(run.latents, sample.latents.to(run.latents.device))[0] + 0 * self._taps.sum()
        decided = as_decided(self._now, run.tables)
        unrefined = torch.from_numpy(plan_taps(decided)).to(self._taps)
        places = self._known.places(decided).to(self._taps.device)
        known = self._taps[places.clamp_min(0), : unrefined.shape[1]]
        rows = torch.where((places >= 0)[:, None, None], known, unrefined)
        with TapRollout(self._task.pipe, decided, self._checkpointed) as rollout:
            rollout.follow(rows)
            latents = sample_latents(self._task.pipe, sample.jobs, sample.num_steps, 1, with_grad=True)
        return log_error(latents, sample.latents.to(latents.device))[0]

    def error(self) -> float:
        return float(np.mean([self._judged(self._task.select[[i]]) for i in range(len(self._task.select.jobs))]))

    def _judged(self, sample: Samples) -> float:
        with torch.no_grad():
            latents = decided_run(self._task.pipe, self._now, sample.jobs[0], sample.num_steps).latents
        return float(log_error(latents, sample.latents.to(latents.device))[0])


def fit_taps(
    pipe: Any,
    problem: Problem,
    section: NetworkPlan,
    refinement: Refinement,
    state_path: Path,
    seed: int,
    on_progress: Callable[[float, float], None],
) -> tuple[FittedTaps, dict[str, Any]]:
    """Rows for what runs of a section forecast from, and an account of their refinement.

    Args:
        problem: of the trace at the section's point.
        state_path: where refinement is kept, see `refine_taps`.
    """
    fit = problem.samples("fit")
    runs = [decided_run(pipe, section, job, fit.num_steps) for job in fit.jobs[:RUNS]]
    taps = FittedTaps.for_runs(problem, section, [run.tables for run in runs])
    example = next((run.tables for run in runs if run.forecasts), None)
    if not refinement.minutes or example is None:
        return taps, {}
    start, expand = taps.coordinates(problem)
    course = partial(DecidedCourse, section=section, taps=taps)
    first = as_decided(taps.of(section), example)
    task = RefinementTask(pipe, first, start, expand, fit, problem.samples("select"), course)
    try:
        theta, account = refine_taps(task, replace(refinement, batch=BATCH), state_path, seed, on_progress)
    except NotDifferentiableError as error:
        return taps, {"skipped": str(error)}
    return replace(taps, weights=expand(theta).double().numpy()), account
