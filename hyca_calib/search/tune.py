"""Optuna over everything the exact schedule search takes as given."""

import itertools
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict

import numpy as np
import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from hyca_calib.costs.budget import Budget
from hyca_calib.search.candidate import Candidate, partition
from hyca_calib.search.options import FEW_STEPS, Tuning
from hyca_calib.search.problem import AXES, Problem
from hyca_calib.search.schedules import (
    LOUDNESS,
    branch_schedule,
    mixed_schedules,
    own_schedules,
    partial_schedule,
    precise_schedule,
    whole_schedules,
)
from hyca_calib.search.settings import Settings
from hyca_calib.search.stopwatch import Pulse, Stopwatch, TimeIsUpError, no_pulse
from hyca_calib.search.storage import Storage, announce_trial, give_back, open_study, run_trial
from hyca_runtime.errors import BudgetError
from hyca_runtime.schedule import Schedule

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
TINY = 1e-30


def solve(
    problem: Problem, settings: Settings, budgets: Sequence[Budget], seed: int, pulse: Pulse = no_pulse
) -> list[Candidate]:
    """The best schedule within each of `budgets` for given settings, judged on the select split.

    Raises:
        BudgetError: no schedule fits.
    """
    groups = partition(problem, settings, seed)
    schedules = own_schedules(problem, settings, budgets, groups, pulse)
    if problem.partial:
        schedules = [
            partial_schedule(problem, settings, budget, groups, schedule, pulse)
            for budget, schedule in zip(budgets, schedules, strict=True)
        ]
    return [Candidate(problem, settings, schedule, seed).knowing(groups=groups) for schedule in schedules]


def tune(
    problem: Problem,
    budgets: Sequence[Budget],
    tuning: Tuning,
    storage: Storage,
    seed: int,
    on_trial: Callable[[int, float], None] = lambda number, cost: None,
    on_share: Callable[[float], None] = lambda share: None,
) -> dict[Budget, list[Candidate]]:
    """Distinct candidates for each budget, best first; one study serves all budgets.

    A trial is one choice of settings; its value is the mean log cost over the budgets. The same call after
    an interruption goes on where it stopped, and ends as if nothing had been; several processes that make it at
    once share the trials.

    Args:
        on_share: told the share of the limits that is spent, also within a trial. Once the time is, the trial stops,
            unless it is the first.
    """
    budget_names = ",".join(budget.text + (" or little more" if budget.tolerance else "") for budget in budgets)
    asked = f"{budget_names} groups {tuning.groups or 'any'} {tuning.taps} seed {seed}"
    study = open_study(storage, f"tune {problem.identity} {asked}")

    watch, done, within = Stopwatch(tuning.timeout), 0, [problem.within(budget) for budget in budgets]

    def pulse() -> None:
        on_share(max(watch.share, done / tuning.trials))
        if watch.share >= 1 and done:
            raise TimeIsUpError

    def objective(trial: Trial) -> float:
        candidates = solve(problem, _suggest(trial, tuning), within, seed, pulse)
        trial.set_user_attr("schedules", [c.schedule.model_dump(mode="json") for c in candidates])
        trial.set_user_attr("costs", [c.cost for c in candidates])
        value = float(np.mean([np.log(max(c.cost, 0.0) + TINY) for c in candidates]))
        on_trial(trial.number, float(np.exp(value)))
        return value

    with suppress(TimeIsUpError):
        while (done := _count(study, TrialState.COMPLETE)) < tuning.trials and (watch.share < 1 or not done):
            give_back(study)
            study.sampler = _sampler(_count(study, TrialState.COMPLETE, TrialState.RUNNING), tuning, seed)
            announce_trial(study)
            run_trial(study, objective)
    finished = study.get_trials(states=(TrialState.COMPLETE,))
    found = {budget: _distinct(problem, finished, i, tuning, seed) for i, budget in enumerate(budgets)}
    for candidates, budget in zip(found.values(), within, strict=True):
        candidates[1:1] = _other_ways(candidates[0], budget)
    return found


def _other_ways(candidate: Candidate, budget: Budget) -> list[Candidate]:
    """The best of the same settings in the other ways that a palette allows: rollouts tell what of it pays.

    Parts and computed steps searched together, whole steps alone, guidance branches on steps of their own.
    """
    problem, settings, groups, found = candidate.problem, candidate.settings, candidate.groups, list[Schedule]()
    if problem.partial:
        whole = whole_schedules(problem, settings, [budget], groups, no_pulse)
        if problem.trace.num_steps > FEW_STEPS:
            found += [*mixed_schedules(problem, settings, budget, groups)[:1], *whole]
        else:
            with suppress(BudgetError):  # gaps may be too long
                found += mixed_schedules(problem, settings, budget, groups)
            found = [*whole, *found[1:]]  # the very best is the candidate's own
    variants = problem.variants.saving(budget.timed is not None) if problem.variants else ()
    precise = itertools.product(variants, LOUDNESS)
    for way in precise:
        with suppress(BudgetError):  # other ways may keep it
            found.append(precise_schedule(problem, settings, budget, groups, *way))
    if problem.apart:
        found.append(branch_schedule(problem, settings, budget, groups))
    return [candidate.moved(schedule) for schedule in dict.fromkeys(found)]


def _sampler(number: int, tuning: Tuning, seed: int) -> optuna.samplers.BaseSampler:
    """The sampler of trial `number` of those that did not fail; the first trials are of defaults.

    What it suggests does not depend on interruptions before.
    """
    sampler = optuna.samplers.TPESampler(seed=seed * 1_000_003 + number, n_startup_trials=12)
    defaults = list(dict.fromkeys((tuning.groups or 16, tuning.groups or 1)))
    if number >= len(defaults):
        return sampler
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.PartialFixedSampler(asdict(Settings(groups=defaults[number])), sampler)


def _count(study: optuna.Study, *states: TrialState) -> int:
    return len(study.get_trials(deepcopy=False, states=states))


def _suggest(trial: Trial, tuning: Tuning) -> Settings:
    low, high = (tuning.groups, tuning.groups) if tuning.groups else (1, MAX_GROUPS)
    return Settings(
        groups=trial.suggest_int("groups", low, high, log=low != high),
        descriptors=trial.suggest_categorical("descriptors", DESCRIPTOR_SETS),
        clusterer=trial.suggest_categorical("clusterer", CLUSTERERS),
        depth=trial.suggest_int("depth", 2, 3),
        ridge=trial.suggest_float("ridge", 1e-7, 1e-1, log=True),
        axis=trial.suggest_categorical("axis", AXES),
        start=trial.suggest_int("start", 1, 3),
        taps=tuning.taps,
    )


def _distinct(problem: Problem, trials: list[FrozenTrial], budget: int, tuning: Tuning, seed: int) -> list[Candidate]:
    """The best trial of every schedule for one budget."""
    best = dict[Schedule, Candidate]()
    for trial in sorted(trials, key=lambda t: t.user_attrs["costs"][budget]):
        schedule = Schedule.model_validate(trial.user_attrs["schedules"][budget], strict=False)
        candidate = Candidate(problem, Settings(**trial.params, taps=tuning.taps), schedule, seed)
        best.setdefault(schedule, candidate.knowing(cost=trial.user_attrs["costs"][budget]))
    return list(best.values())
