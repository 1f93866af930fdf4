"""Optuna over everything the exact schedule search takes as given."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState

from hyca_calib.budget import Budget
from hyca_calib.replay import grouped
from hyca_calib.search.candidate import Candidate, Settings, choose_solvers, partition
from hyca_calib.search.exact import best_schedules, gap_table
from hyca_calib.search.problem import AXES, Problem
from hyca_runtime.errors import BudgetError
from hyca_runtime.schedule import Schedule

__all__ = ["Tuning", "solve", "tune"]

DESCRIPTOR_SETS = (
    "energy",
    "dynamics",
    "taps",
    "energy+dynamics",
    "dynamics+spectrum",
    "energy+dynamics+spectrum+taps",
)
CLUSTERERS = ("kmeans", "gaussian_mixture", "agglomerative")
MAX_GROUPS = 32


@dataclass(frozen=True)
class Tuning:
    """Limits of the offline part.

    Attributes:
        trials: settings tried.
        timeout: seconds after which no further trial starts.
        groups: fixes the number of groups; None lets Optuna choose.
    """

    trials: int = 40
    timeout: float = 45.0
    groups: int | None = None


def solve(problem: Problem, settings: Settings, budget: Budget, seed: int) -> Candidate:
    """The best schedule within `budget` for given settings, judged on the select split.

    Raises:
        BudgetError: no schedule fits.
    """
    trace = problem.trace
    count = budget.computed_steps(trace.cost, trace.num_steps, settings.depth)
    if count == trace.num_steps:
        return Candidate(settings, Schedule.from_steps(trace.num_steps, range(trace.num_steps)), 0.0)
    groups = partition(problem, settings, seed)
    fit, judge = (grouped(gram, problem.channel_gain, groups) for gram in (problem.fit, problem.select))
    times = problem.times(settings.axis)
    start = min(settings.start, count)
    widest = -(-(trace.num_steps - start) // (count - start + 1)) + 1  # if all gaps after the start were equal
    max_gap = min(trace.num_steps, max(4, 2 * widest))
    table = gap_table(fit, judge, times, problem.step_weights, settings.depth, settings.ridge, max_gap)
    found = best_schedules(table, range(count, count + 1), start)
    if count not in found:
        raise BudgetError(f"budget {budget.text!r}: no schedule with {count} of {trace.num_steps} computed steps")
    _, costs = choose_solvers(problem, settings, found[count], groups)
    return Candidate(settings, found[count], float(np.min(list(costs.values()), axis=0).sum()))


def tune(
    problem: Problem,
    budget: Budget,
    tuning: Tuning,
    journal: Path,
    study_name: str,
    seed: int,
    on_trial: Callable[[int, float], None] = lambda number, best: None,
) -> list[Candidate]:
    """Distinct candidates, best first.

    The journal is append-only: the same call after an interruption goes on where it stopped.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(journal))),
        study_name=study_name,
        load_if_exists=True,
        sampler=optuna.samplers.TPESampler(seed=seed, n_startup_trials=12),
    )
    for trial in study.get_trials(states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)  # left behind by an interrupted search
    if not study.trials:
        for groups in {tuning.groups or 16, tuning.groups or 1}:
            study.enqueue_trial(asdict(Settings(groups=groups)))

    def objective(trial: Trial) -> float:
        settings = _suggest(trial, tuning)
        candidate = solve(problem, settings, budget, seed)
        count, steps = len(candidate.schedule.computed_steps), problem.trace.num_steps
        ratio = problem.trace.cost.flops_ratio(steps, count, settings.depth)
        allowed = budget.steps / steps if budget.steps is not None else (budget.share or 1.0)
        spent = count / steps if budget.steps is not None else 1 / ratio
        trial.set_constraint("budget", spent - allowed)
        trial.set_user_attr("computed", list(candidate.schedule.computed_steps))
        trial.set_user_attr("flops_ratio", ratio)
        on_trial(trial.number, candidate.cost)
        return candidate.cost

    done = len(study.get_trials(states=(TrialState.COMPLETE,)))
    deadline = time.monotonic() + tuning.timeout
    while done < tuning.trials and time.monotonic() < deadline:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            study.optimize(objective, n_trials=1)
        done += 1
    finished = study.get_trials(states=(TrialState.COMPLETE,))
    return _distinct(finished, problem.trace.num_steps)


def _suggest(trial: Trial, tuning: Tuning) -> Settings:
    low, high = (tuning.groups, tuning.groups) if tuning.groups else (1, MAX_GROUPS)
    return Settings(
        groups=trial.suggest_int("groups", low, high, log=low != high),
        descriptors=trial.suggest_categorical("descriptors", DESCRIPTOR_SETS),
        clusterer=trial.suggest_categorical("clusterer", CLUSTERERS),
        depth=trial.suggest_int("depth", 2, 3),
        ridge=trial.suggest_float("ridge", 1e-5, 1e-1, log=True),
        axis=trial.suggest_categorical("axis", AXES),
        start=trial.suggest_int("start", 1, 3),
    )


def _distinct(trials: list[FrozenTrial], num_steps: int) -> list[Candidate]:
    """The best trial of every schedule."""
    best: dict[tuple[int, ...], Candidate] = {}
    for trial in sorted(trials, key=lambda t: t.value if t.value is not None else float("inf")):
        computed = tuple(trial.user_attrs["computed"])
        if computed not in best and trial.value is not None:
            schedule = Schedule.from_steps(num_steps, computed)
            best[computed] = Candidate(Settings(**trial.params), schedule, trial.value)
    return list(best.values())
