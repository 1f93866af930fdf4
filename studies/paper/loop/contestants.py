"""Ways of searching schedules by rollouts, all from the offline optimum.

Each is a function that scores schedules until `Spent` is raised.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.trial import Trial
from scipy.stats import norm
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

from hyca_calib.replay import grouped, schedule_cost
from hyca_calib.search.candidate import partition
from hyca_calib.search.confirm import neighbours
from hyca_calib.search.taps import fit_solver
from hyca_runtime.schedule import Schedule
from studies.paper.loop.contest import Contest

__all__ = ["CONTESTANTS", "offline_costs"]

Array = NDArray[np.float64]
REACH = 4  # steps by which one coordinate of a model-free sampler may move
POOL = 600
WORSE = 1.0  # standard errors by which half of the samples must be worse to be given up


def climb(contest: Contest, rng: random.Random) -> None:
    """Move one computed step; keep the first move that helps."""
    _climb(contest, rng, contest.score)


def pruned_climb(contest: Contest, rng: random.Random) -> None:
    """The same; half of the samples decide whether the other half is worth it."""
    half = max(1, len(contest.samples.jobs) // 2)

    def score(schedule: Schedule) -> float:
        if schedule not in contest.known and contest.known:
            worse = contest.part(schedule, half) - contest.part(contest.best, half)
            if worse.mean() > WORSE * worse.std(ddof=min(1, half - 1)) / half**0.5:
                return float("inf")
        return contest.score(schedule)

    _climb(contest, rng, score)


def _climb(contest: Contest, rng: random.Random, score: Callable[[Schedule], float]) -> None:
    here, lowest = contest.start, contest.score(contest.start)
    while True:
        moves = neighbours(here, contest.settings.start)
        rng.shuffle(moves)
        for schedule in moves:
            if (found := score(schedule)) < lowest:
                here, lowest = schedule, found
                break
        else:
            return


def at_random(contest: Contest, rng: random.Random) -> None:
    """Up to three random moves from the offline optimum: the control."""
    contest.score(contest.start)
    for schedule in _pool(contest, rng):
        contest.score(schedule)


def tpe(contest: Contest, rng: random.Random) -> None:
    """Optuna's tree-structured Parzen estimator over shifts of each computed step."""
    _optuna(contest, optuna.samplers.TPESampler(seed=rng.randrange(2**31), n_startup_trials=5), float_valued=False)


def cma_es(contest: Contest, rng: random.Random) -> None:
    """CMA-ES over the same shifts, continuous and rounded; its first deviation is a sixth of their range."""
    sampler = optuna.samplers.CmaEsSampler(seed=rng.randrange(2**31), n_startup_trials=1)
    _optuna(contest, sampler, float_valued=True)


def nsga2(contest: Contest, rng: random.Random) -> None:
    """NSGA-II, here with one objective, over the same shifts."""
    _optuna(contest, optuna.samplers.NSGAIISampler(population_size=8, seed=rng.randrange(2**31)), float_valued=False)


def surrogate(contest: Contest, rng: random.Random) -> None:
    """A Gaussian process learns how far rollouts are from the offline cost; expected improvement picks."""
    contest.score(contest.start)
    pool = _pool(contest, rng)
    offline = dict(zip(pool, offline_costs(contest, pool), strict=True))
    offline[contest.start] = offline_costs(contest, [contest.start])[0]
    while len(contest.known) <= len(pool):
        seen = list(contest.known)
        rest = [schedule for schedule in offline if schedule not in contest.known]
        if not rest:
            return
        kernel = ConstantKernel(0.1) * RBF(3.0, (0.5, 30.0)) + WhiteKernel(1e-2)
        process = GaussianProcessRegressor(kernel, normalize_y=True, random_state=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            process.fit(_places(seen), [contest.known[s] - offline[s] for s in seen])
            gap, spread = process.predict(_places(rest), return_std=True)
        mean, lowest = np.array([offline[s] for s in rest]) + gap, min(contest.known.values())
        z = (lowest - mean) / np.maximum(spread, 1e-9)
        contest.score(rest[int(np.argmax(spread * (z * norm.cdf(z) + norm.pdf(z))))])
        if (better := contest.best) != contest.start and len(contest.known) % 8 == 0:
            fresh = [s for s in neighbours(better, contest.settings.start) if s not in offline]
            offline |= dict(zip(fresh, offline_costs(contest, fresh), strict=True))


CONTESTANTS: dict[str, Callable[[Contest, random.Random], None]] = {
    "random moves": at_random,
    "hill climbing": climb,
    "hill climbing, pruned": pruned_climb,
    "TPE": tpe,
    "CMA-ES": cma_es,
    "NSGA-II": nsga2,
    "surrogate": surrogate,
}


def offline_costs(contest: Contest, schedules: list[Schedule]) -> list[float]:
    """Log of the replayed cost of fitted taps on the select split, for each schedule."""
    problem, settings = contest.problem, contest.settings
    groups = partition(problem, settings, contest.seed)
    fit, judge = (grouped(gram, problem.channel_gain, groups) for gram in (problem.fit, problem.select))
    times = problem.times(settings.axis)
    costs = []
    for schedule in schedules:
        taps = [fit_solver(gram[None], schedule, times, settings.depth, settings.ridge) for gram in fit]
        costs.append(float(np.log(schedule_cost(judge, schedule, times, problem.step_weights, taps).sum())))
    return costs


def _pool(contest: Contest, rng: random.Random) -> list[Schedule]:
    """Distinct schedules, one to three moves away from the offline optimum."""
    found: dict[Schedule, None] = {}
    for _ in range(20 * POOL):
        schedule = contest.start
        for _ in range(rng.randint(1, 3)):
            schedule = rng.choice(neighbours(schedule, contest.settings.start))
        if schedule != contest.start:
            found.setdefault(schedule)
        if len(found) == POOL:
            break
    return list(found)


def _places(schedules: list[Schedule]) -> Array:
    return np.array([schedule.computed_steps for schedule in schedules], dtype=np.float64)


def _optuna(contest: Contest, sampler: optuna.samplers.BaseSampler, float_valued: bool) -> None:
    base, steps = contest.start.computed_steps, contest.start.num_steps

    def objective(trial: Trial) -> float:
        moved = [0]
        for i, step in enumerate(base[1:], 1):
            name, low, high = f"shift {i}", -REACH, REACH
            shift = trial.suggest_float(name, low, high) if float_valued else trial.suggest_int(name, low, high)
            moved.append(int(np.clip(round(step + shift), max(i, contest.settings.start), steps - 1)))
        if len(set(moved)) < len(base):
            raise optuna.TrialPruned
        return contest.score(Schedule.from_steps(steps, moved))

    optuna.logging.set_verbosity(optuna.logging.CRITICAL)  # `Spent` is no failure
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        study = optuna.create_study(sampler=sampler)
        study.enqueue_trial({f"shift {i}": 0 for i in range(1, len(base))})
        study.optimize(objective, n_trials=round(20 * contest.budget))  # repeats are free, but not for ever
