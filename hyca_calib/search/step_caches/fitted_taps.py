"""Rows fitted to what runs under a policy forecast from, and refined by gradient through such runs.

What a run decides is held while gradients flow through it, and decided anew for the next.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from hyca_calib.pipelines.rollout import sample_latents
from hyca_calib.quality.metrics import log_error
from hyca_calib.search.evolve import refine_somehow
from hyca_calib.search.options import Refinement
from hyca_calib.search.preconditioner import drawn_to_groups, preconditioned
from hyca_calib.search.problem import Problem, Samples
from hyca_calib.search.refinement_task import RefinementTask
from hyca_calib.search.replay import Array, rows_of
from hyca_calib.search.rollout_error import finite_or_lost
from hyca_calib.search.rows import plan_taps, with_forecasts
from hyca_calib.search.rows import rows_of as rows_of_section
from hyca_calib.search.settings import Settings
from hyca_calib.search.step_caches.decided_run import DecidedRun, Tables, as_decided, decided_run, pasts_met
from hyca_calib.search.step_caches.rule import Rule
from hyca_calib.search.study import StudyFolder
from hyca_calib.search.tap_rollout import TapRollout
from hyca_calib.search.taps import fit_rows
from hyca_runtime.certified import content_digest
from hyca_runtime.errors import TraceError
from hyca_runtime.group import DimensionGroup, encode_channels
from hyca_runtime.network_plan import NetworkPlan
from hyca_runtime.policies import LearningPolicy
from hyca_runtime.schedule import EVERY
from hyca_runtime.solvers import FittedToPast, Newton

DEPTH = 3
"""Computed features that a row weighs."""
RUNS = 24
"""Fit samples from whose runs it is learnt what plans forecast from."""
BATCH = 6
"""Fit samples of one iteration; each runs alone, and twice."""


Key = tuple[str, str]
"""A point by its name, and a guidance branch that has rows of its own there, or `EVERY`."""


def traced_rules(problem: Problem, rules: Sequence[Rule]) -> list[Rule]:
    """The rules at whose points the trace is.

    Raises:
        TraceError: it is of others.
    """
    wanted = [list(rule.points.values()) for rule in rules]
    if found := [rule for rule, points in zip(rules, wanted, strict=True) if {*points} <= {*problem.trace.points}]:
        return found
    ways = list(dict.fromkeys(",".join(map(str, points)) for points in wanted))
    places, traced = (" and ".join(f"'{at}'" for at in of) for of in (wanted[0], problem.trace.points))
    told = f", or {', or '.join(ways[1:])}, for its other settings" if ways[1:] else ""
    raise TraceError(
        f"--fitted: rows are fitted at {places}, where {rules[0].preset} forecasts, and the trace is of {traced}; "
        f"record one with hyca trace --point {ways[0]}{told}"
    )


def statistics(problem: Problem, section: NetworkPlan) -> dict[Key, Problem]:
    """What rows are fitted to: the features at each point of a section; where some branches are kept against another,
    those of that one for all others, and the differences for these.

    Raises:
        TraceError: the trace is not of a point.
    """
    found = dict[Key, Problem]()
    for name, forecast in section.points.items():
        whole, leads = problem.at(forecast.at), {*forecast.against.values()}
        found[name, EVERY] = whole.of(*leads) if len(leads) == 1 else whole
        found |= {(name, branch): whole.beside(branch, lead) for branch, lead in forecast.against.items()}
    return found


def fitted_row(problem: Problem, past: Sequence[int], step: int) -> Array:
    """Least squares on the fit split, drawn towards linear extrapolation, ``(channel, past)``."""
    settings = Settings()
    prior = rows_of(Newton(1), problem.times(settings.axis), past, [step])
    return fit_rows(problem.fit, past, [step], settings.ridge, prior)[..., 0]


@dataclass(frozen=True)
class FittedTaps:
    """Rows of every channel for every past that runs have met.

    Attributes:
        tables: of each point, and of branches that have rows of their own there.
    """

    tables: Mapping[Key, FittedToPast]

    @classmethod
    def for_runs(cls, problems: Mapping[Key, Problem], section: NetworkPlan, runs: Sequence[Tables]) -> Self:
        """Rows from the statistics for what some runs of a section met.

        Args:
            problems: see `statistics`.
        """
        tables = dict[Key, FittedToPast]()
        for (name, branch), problem in problems.items():
            served = {table for run in runs for of, table in run.items() if _key(problems, name, of)[1] == branch}
            pasts = pasts_met(section, name, served, DEPTH)
            weights = np.zeros((len(pasts), DEPTH, problem.trace.num_channels))
            for i, (step, *past) in enumerate(pasts):
                weights[i, : len(past)] = fitted_row(problem, past, step).T
            tables[name, branch] = FittedToPast(pasts, weights)
        return cls(tables)

    @property
    def weights(self) -> Array:
        """Those of all tables one below the other, ``(past, DEPTH, channel)``, padded with zeros."""
        return np.concatenate([padded(table.weights, self.width) for table in self.tables.values()])

    @property
    def width(self) -> int:
        """Channels of the widest point."""
        return max(int(table.weights.shape[2]) for table in self.tables.values())

    def weighing(self, weights: Array) -> Self:
        """The same pasts with other rows, see `weights`."""
        parts = np.split(weights, np.cumsum([len(table.pasts) for table in self.tables.values()])[:-1])
        pairs = zip(self.tables.items(), parts, strict=True)
        return type(self)({key: replace(of, weights=part[:, :, : of.weights.shape[2]]) for (key, of), part in pairs})

    @property
    def groups(self) -> dict[str, dict[str, tuple[DimensionGroup, ...]]]:
        """What forecasts by these rows, by point and branch."""
        found = defaultdict[str, dict[str, tuple[DimensionGroup, ...]]](dict)
        for (name, branch), table in self.tables.items():
            channels = encode_channels(range(table.weights.shape[2]))
            found[name][branch] = (DimensionGroup(name="all", channels=channels, solver=table.spec()),)
        return dict(found)

    def of(self, section: NetworkPlan) -> NetworkPlan:
        """A section that forecasts by these rows."""
        groups = self.groups
        points = {name: of.model_copy(update={"groups": groups[name]}) for name, of in section.points.items()}
        return with_forecasts(section, points)

    def places(self, decided: NetworkPlan) -> Tensor:
        """Which row serves each of those of a section, as it was decided, -1 for none, ``(row,)``."""
        begins = dict(zip(self.tables, np.cumsum([0, *(len(of.pasts) for of in self.tables.values())]), strict=False))
        found = list[int]()
        for row in rows_of_section(decided):
            key = _key(self.tables, row.point, row.branch)
            place = self.tables[key].place([step for _, step in filter(None, row.regressors)], row.step)
            found.append(-1 if place is None else int(begins[key]) + place)
        return torch.tensor(found)

    def coordinates(self, problems: Mapping[Key, Problem]) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """Where refinement begins, and the way from there to weights; see `hyca_calib.search.preconditioner`."""
        ways = list[tuple[int, int, Callable[[Tensor], Tensor]]]()
        for key, table in self.tables.items():
            places = tuple((list(past), step) for step, *past in table.pasts)
            rows, _, channels = table.weights.shape
            ways.append((rows, channels, preconditioned(table.weights, places, problems[key].fit)))

        def expand(u: Tensor) -> Tensor:
            parts = zip(ways, torch.split(u, [rows for rows, _, _ in ways]), strict=True)
            moved = [(way(part[:, :, :channels]), channels) for (_, channels, way), part in parts]
            return torch.cat([pad(of, (0, self.width - channels)) for of, channels in moved])

        together = torch.zeros(self.width, dtype=torch.int64)
        return drawn_to_groups(expand, together, (len(self.weights), DEPTH, self.width))


def padded(weights: Array, width: int) -> Array:
    """Rows with so many channels, the last of them zeros."""
    return np.pad(weights, ((0, 0), (0, 0), (0, width - weights.shape[2])))


def _key(known: Mapping[Key, Any], name: str, branch: str) -> Key:
    """Whose rows serve a branch at a point."""
    return (name, branch) if (name, branch) in known else (name, EVERY)


class DecidedCourse:
    """Runs of samples that decide for themselves, each alone; see `hyca_calib.search.refinement_task.Course`."""

    def __init__(self, task: RefinementTask, checkpointed: bool, section: NetworkPlan, taps: FittedTaps) -> None:
        self._task, self._checkpointed, self._section, self._known = task, checkpointed, section, taps

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        pass

    def follow(self, taps: Tensor) -> None:
        self._taps = taps
        self._known = self._known.weighing(taps.detach().double().cpu().numpy())
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
            error = log_error(latents, sample.latents.to(latents.device))[0]
            if not error.requires_grad:
                return error
            (slope,) = torch.autograd.grad(error, rows)  # here, where calls can be computed again
        return error.detach() + (slope * (rows - rows.detach())).sum()

    def error(self) -> float:
        return float(np.mean([self._judged(self._task.select[[i]]) for i in range(len(self._task.select.jobs))]))

    def _judged(self, sample: Samples) -> float:
        with torch.no_grad():
            latents = decided_run(self._task.pipe, self._now, sample.jobs[0], sample.num_steps).latents
        return float(finite_or_lost(log_error(latents, sample.latents.to(latents.device)), sample)[0])


def decides_anew(section: NetworkPlan) -> bool:
    """Whether runs decide by how far off forecasts are, and would do so otherwise with fitted rows than they do now."""
    groups = [group for of in section.points.values() for groups in of.groups.values() for group in groups]
    fitted = all(group.solver.name == FittedToPast.name for group in groups)
    return isinstance(section.decider, LearningPolicy) and not fitted


def rows_met(pipe: Any, problem: Problem, section: NetworkPlan) -> tuple[FittedTaps, list[DecidedRun]]:
    """Rows from the statistics for what runs of a section forecast from, and these runs; those with the rows, too,
    where they decide anew.

    Args:
        problem: of a trace of the section's points.
    """
    fit, problems = problem.samples("fit"), statistics(problem, section)
    runs = [decided_run(pipe, section, job, fit.num_steps) for job in fit.jobs[:RUNS]]
    taps = FittedTaps.for_runs(problems, section, [run.tables for run in runs])
    if decides_anew(section):
        runs = [*(decided_run(pipe, taps.of(section), job, fit.num_steps) for job in fit.jobs[:RUNS]), *runs]
        taps = FittedTaps.for_runs(problems, section, [run.tables for run in runs])
    return taps, runs


def refine_rows(
    pipe: Any,
    problem: Problem,
    section: NetworkPlan,
    met: tuple[FittedTaps, Sequence[DecidedRun]],
    refinement: Refinement,
    study: StudyFolder,
    seed: int,
    on_progress: Callable[[float, float], None],
) -> tuple[FittedTaps, dict[str, Any]]:
    """Rows that are refined under what runs of a section decide, and an account of that.

    Args:
        met: see `rows_met`.
        study: where refinement is kept.
    """
    taps, runs = met
    example = next((run.tables for run in runs if run.forecasts), None)
    if not refinement.minutes or example is None:
        return taps, {}
    start, expand = taps.coordinates(statistics(problem, section))
    course, fit = partial(DecidedCourse, section=section, taps=taps), problem.samples("fit")
    first = as_decided(taps.of(section), example)
    of = f"{problem.identity} {content_digest(first, [first])}"
    task = RefinementTask(pipe, first, start, expand, fit, problem.samples("select"), course, of=of)
    theta, account = refine_somehow(task, replace(refinement, batch=BATCH), study, seed, on_progress)
    return taps.weighing(expand(theta).double().numpy()), account
