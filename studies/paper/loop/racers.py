"""Ways of searching schedules by rollouts, all from the offline optimum.

Each is a function that scores schedules until `Spent` is raised.
"""

from __future__ import annotations

import contextlib
import random
import warnings
from collections.abc import Callable

import numpy as np
import optuna
from optuna.trial import Trial
from scipy.stats import norm
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

from hyca_calib.search.candidate import partition
from hyca_calib.search.replay import grouped, schedule_cost
from hyca_calib.search.rollout_search import neighbours
from hyca_calib.search.taps import fit_solver
from hyca_runtime.schedule import Schedule
from studies.paper.loop.rollout_race import RolloutRace, Spent
from studies.paper.replay_setup import Array

REACH = 4  # steps by which one coordinate of a model-free sampler may move
POOL = 600
WORSE = 1.0  # standard errors by which half of the samples must be worse to be given up


def climb(race: RolloutRace, rng: random.Random) -> None:
    """Move one computed step; keep the first move that helps."""
    _climb(race, rng, race.score)


def pruned_climb(race: RolloutRace, rng: random.Random) -> None:
    """The same; half of the samples decide whether the other half is worth it."""
    half = max(1, len(race.samples.jobs) // 2)

    def score(schedule: Schedule) -> float:
        if schedule not in race.known and race.known:
            worse = race.part(schedule, half) - race.part(race.best, half)
            if worse.mean() > WORSE * worse.std(ddof=min(1, half - 1)) / half**0.5:
                return float("inf")
        return race.score(schedule)

    _climb(race, rng, score)


def _climb(race: RolloutRace, rng: random.Random, score: Callable[[Schedule], float]) -> None:
    here, lowest = race.start, race.score(race.start)
    while True:
        moves = neighbours(here, race.settings.start)
        rng.shuffle(moves)
        for schedule in moves:
            if (found := score(schedule)) < lowest:
                here, lowest = schedule, found
                break
        else:
            return


def at_random(race: RolloutRace, rng: random.Random) -> None:
    """Up to three random moves from the offline optimum: the control."""
    race.score(race.start)
    for schedule in _pool(race, rng):
        race.score(schedule)


def tpe(race: RolloutRace, rng: random.Random) -> None:
    """Optuna's tree-structured Parzen estimator over shifts of each computed step."""
    _optuna(race, optuna.samplers.TPESampler(seed=rng.randrange(2**31), n_startup_trials=5), float_valued=False)


def cma_es(race: RolloutRace, rng: random.Random) -> None:
    """CMA-ES over the same shifts, continuous and rounded; its first deviation is a sixth of their range."""
    sampler = optuna.samplers.CmaEsSampler(seed=rng.randrange(2**31), n_startup_trials=1)
    _optuna(race, sampler, float_valued=True)


def nsga2(race: RolloutRace, rng: random.Random) -> None:
    """NSGA-II, here with one objective, over the same shifts."""
    _optuna(race, optuna.samplers.NSGAIISampler(population_size=8, seed=rng.randrange(2**31)), float_valued=False)


def surrogate(race: RolloutRace, rng: random.Random) -> None:
    """A Gaussian process learns how far rollouts are from the offline cost; expected improvement picks."""
    race.score(race.start)
    pool = _pool(race, rng)
    offline = dict(zip(pool, offline_costs(race, pool), strict=True))
    offline[race.start] = offline_costs(race, [race.start])[0]
    while len(race.known) <= len(pool):
        seen = list(race.known)
        rest = [schedule for schedule in offline if schedule not in race.known]
        if not rest:
            return
        kernel = ConstantKernel(0.1) * RBF(3.0, (0.5, 30.0)) + WhiteKernel(1e-2)
        process = GaussianProcessRegressor(kernel, normalize_y=True, random_state=0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            process.fit(_places(seen), [race.known[s] - offline[s] for s in seen])
            gap, spread = process.predict(_places(rest), return_std=True)
        mean, lowest = np.array([offline[s] for s in rest]) + gap, min(race.known.values())
        z = (lowest - mean) / np.maximum(spread, 1e-9)
        race.score(rest[int(np.argmax(spread * (z * norm.cdf(z) + norm.pdf(z))))])
        if (better := race.best) != race.start and len(race.known) % 8 == 0:
            fresh = [s for s in neighbours(better, race.settings.start) if s not in offline]
            offline |= dict(zip(fresh, offline_costs(race, fresh), strict=True))


CLIMBING, PRUNED = "hill climbing", "hill climbing, pruned"
MODELS = ("TPE", "CMA-ES", "NSGA-II", "surrogate")
RACERS: dict[str, Callable[[RolloutRace, random.Random], None]] = {
    "random moves": at_random,
    CLIMBING: climb,
    PRUNED: pruned_climb,
    "TPE": tpe,
    "CMA-ES": cma_es,
    "NSGA-II": nsga2,
    "surrogate": surrogate,
}


def raced(race: RolloutRace, racer: str, seed: int) -> RolloutRace:
    """The race when its rollouts are spent, or when the racer gives up before."""
    with contextlib.suppress(Spent):
        RACERS[racer](race, random.Random(seed))
    return race


def offline_costs(race: RolloutRace, schedules: list[Schedule]) -> list[float]:
    """Log of the replayed cost of fitted taps on the select split, for each schedule."""
    problem, settings = race.problem, race.settings
    groups = partition(problem, settings, race.seed)
    fit, judge = (grouped(gram, problem.channel_gain, groups) for gram in (problem.fit, problem.select))
    times = problem.times(settings.axis)
    costs = []
    for schedule in schedules:
        taps = [fit_solver(gram[None], schedule, times, settings.depth, settings.ridge) for gram in fit]
        costs.append(float(np.log(schedule_cost(judge, schedule, times, problem.step_weights, taps).sum())))
    return costs


def _pool(race: RolloutRace, rng: random.Random) -> list[Schedule]:
    """Distinct schedules, one to three moves away from the offline optimum."""
    found: dict[Schedule, None] = {}
    for _ in range(20 * POOL):
        schedule = race.start
        for _ in range(rng.randint(1, 3)):
            schedule = rng.choice(neighbours(schedule, race.settings.start))
        if schedule != race.start:
            found.setdefault(schedule)
        if len(found) == POOL:
            break
    return list(found)


def _places(schedules: list[Schedule]) -> Array:
    return np.array([schedule.computed_steps for schedule in schedules], dtype=np.float64)


def _optuna(race: RolloutRace, sampler: optuna.samplers.BaseSampler, float_valued: bool) -> None:
    base, steps = race.start.computed_steps, race.start.num_steps

    def objective(trial: Trial) -> float:
        moved = [0]
        for i, step in enumerate(base[1:], 1):
            name, low, high = f"shift {i}", -REACH, REACH
            shift = trial.suggest_float(name, low, high) if float_valued else trial.suggest_int(name, low, high)
            moved.append(int(np.clip(round(step + shift), max(i, race.settings.start), steps - 1)))
        if len(set(moved)) < len(base):
            raise optuna.TrialPruned
        return race.score(Schedule.from_steps(steps, moved))

    optuna.logging.set_verbosity(optuna.logging.CRITICAL)  # `Spent` is no failure
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        study = optuna.create_study(sampler=sampler)
        study.enqueue_trial({f"shift {i}": 0 for i in range(1, len(base))})
        study.optimize(objective, n_trials=round(20 * race.budget))  # repeats are free, but not for ever
