"""Ways of searching schedules by rollouts, on equal terms: all from the offline optimum, one currency, one score.

Each is a function that scores schedules until `Spent` is raised.
"""

import contextlib
import random
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import optuna
from optuna.trial import Trial
from scipy.stats import norm
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

from hyca_calib.search.assemble import build_section
from hyca_calib.search.candidate import Candidate
from hyca_calib.search.point_solvers import FITTED
from hyca_calib.search.problem import Samples
from hyca_calib.search.replay import Array
from hyca_calib.search.rollout_error import log_errors
from hyca_calib.search.rollout_search import neighbours
from hyca_runtime.schedule import Schedule

REACH = 4  # steps by which one coordinate of a model-free sampler may move
POOL = 600
WORSE = 1.0  # standard errors by which half of the samples must be worse to be given up


class Spent(Exception):  # noqa: N818  (a signal, not an error)
    """The rollouts of a racer are used up."""


@dataclass
class RolloutRace:
    """Scores schedules with fitted taps by rollouts, and stops when they are spent.

    Every schedule is judged on the same prompts and noise (common random numbers), and once.

    Attributes:
        start: the offline optimum, from which everybody begins.
        budget: rollouts allowed; half of the samples cost half a rollout.
        known: mean log error of each schedule that was rolled out in full.
        parts: log errors ``(job,)`` of what was rolled out of each schedule.
        curve: ``(rollouts spent, best mean log error)`` after each rollout.
    """

    pipe: Any
    start: Candidate
    samples: Samples
    budget: float
    known: dict[Schedule, float] = field(default_factory=dict)
    parts: dict[Schedule, Array] = field(default_factory=dict)
    curve: list[tuple[float, float]] = field(default_factory=list)
    spent: float = 0.0

    @property
    def best(self) -> Schedule:
        return min(self.known, key=lambda schedule: self.known[schedule])

    def score(self, schedule: Schedule) -> float:
        """Mean log error over all samples; raises `Spent` if no rollout is left."""
        if schedule not in self.known:
            self.known[schedule] = float(self.part(schedule, len(self.samples.jobs)).mean())
            self.curve.append((self.spent, min(self.known.values())))
        return self.known[schedule]

    def part(self, schedule: Schedule, count: int) -> Array:
        """Log errors of the first `count` samples; only what is not known yet is rolled out."""
        have = self.parts.get(schedule, np.zeros(0))
        if len(have) < count:
            if self.spent >= self.budget:
                raise Spent
            rest = self.samples[len(have) : count]
            found = log_errors(self.pipe, build_section(self.start.moved(schedule)), rest).numpy()
            self.parts[schedule] = have = np.concatenate([have, found])
            self.spent += len(rest.jobs) / len(self.samples.jobs)
        return have[:count]

    def neighbours(self, schedule: Schedule) -> list[Schedule]:
        """Schedules that differ in one computed step."""
        return neighbours(schedule, self.start.settings.start)


Racer = Callable[[RolloutRace, random.Random], None]


def climb(race: RolloutRace, rng: random.Random, pruned: bool = False) -> None:
    """Move one computed step; keep the first move that helps. If pruned, half of the samples may rule a move out."""
    half = max(1, len(race.samples.jobs) // 2)

    def hopeless(schedule: Schedule) -> bool:
        worse = race.part(schedule, half) - race.part(race.best, half)
        return bool(worse.mean() > WORSE * worse.std(ddof=min(1, half - 1)) / half**0.5)

    here = race.start.schedule
    race.score(here)
    better: Schedule | None = here
    while better:
        here, better = better, None
        moves = race.neighbours(here)
        rng.shuffle(moves)
        for schedule in moves:
            if pruned and schedule not in race.known and hopeless(schedule):
                continue
            if race.score(schedule) < race.known[here]:
                better = schedule
                break


def at_random(race: RolloutRace, rng: random.Random) -> None:
    """Up to three random moves from the offline optimum: the control."""
    for schedule in (race.start.schedule, *_pool(race, rng)):
        race.score(schedule)


def surrogate(race: RolloutRace, rng: random.Random) -> None:
    """A Gaussian process learns how far rollouts are from the offline cost; expected improvement picks."""
    race.score(race.start.schedule)
    pool = _pool(race, rng)
    offline = offline_costs(race.start, [*pool, race.start.schedule])
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
        if (better := race.best) != race.start.schedule and len(race.known) % 8 == 0:
            offline |= offline_costs(race.start, [s for s in race.neighbours(better) if s not in offline])


def by_optuna(sampler: Callable[[int], optuna.samplers.BaseSampler], *, float_valued: bool = False) -> Racer:
    """One of Optuna's samplers, made with a seed, over shifts of each computed step; continuous ones are rounded."""

    def race_on(race: RolloutRace, rng: random.Random) -> None:
        base, steps = race.start.schedule.computed_steps, race.start.schedule.num_steps

        def objective(trial: Trial) -> float:
            moved = [0]
            for i, step in enumerate(base[1:], 1):
                name, low, high = f"shift {i}", -REACH, REACH
                shift = trial.suggest_float(name, low, high) if float_valued else trial.suggest_int(name, low, high)
                moved.append(int(np.clip(round(step + shift), max(i, race.start.settings.start), steps - 1)))
            if len(set(moved)) < len(base):
                raise optuna.TrialPruned
            return race.score(Schedule.from_steps(steps, moved))

        optuna.logging.set_verbosity(optuna.logging.CRITICAL)  # `Spent` is no failure
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            study = optuna.create_study(sampler=sampler(rng.randrange(2**31)))
            study.enqueue_trial({f"shift {i}": 0 for i in range(1, len(base))})
            study.optimize(objective, n_trials=round(20 * race.budget))  # repeats are free, but not for ever

    return race_on


CLIMBING, PRUNED = "hill climbing", "hill climbing, pruned"
MODELS: dict[str, Racer] = {
    "TPE": by_optuna(lambda seed: optuna.samplers.TPESampler(seed=seed, n_startup_trials=5)),
    # its first deviation is a sixth of the range
    "CMA-ES": by_optuna(lambda seed: optuna.samplers.CmaEsSampler(seed=seed, n_startup_trials=1), float_valued=True),
    "NSGA-II": by_optuna(lambda seed: optuna.samplers.NSGAIISampler(population_size=8, seed=seed)),
    "surrogate": surrogate,
}
RACERS: dict[str, Racer] = {"random moves": at_random, CLIMBING: climb, PRUNED: partial(climb, pruned=True), **MODELS}


def raced(race: RolloutRace, racer: str, seed: int) -> RolloutRace:
    """The race when its rollouts are spent, or when the racer gives up before."""
    with contextlib.suppress(Spent):
        RACERS[racer](race, random.Random(seed))
    return race


def offline_costs(start: Candidate, schedules: Sequence[Schedule]) -> dict[Schedule, float]:
    """Log of the replayed cost of fitted taps on the select split, for each schedule."""
    costs = {schedule: start.moved(schedule).solver_costs[FITTED] for schedule in schedules}
    return {schedule: float(np.log(np.sum(cost))) for schedule, cost in costs.items()}


def _pool(race: RolloutRace, rng: random.Random) -> list[Schedule]:
    """Distinct schedules, one to three moves away from the offline optimum."""
    found: dict[Schedule, None] = {}
    for _ in range(20 * POOL):
        schedule = race.start.schedule
        for _ in range(rng.randint(1, 3)):
            schedule = rng.choice(race.neighbours(schedule))
        if schedule != race.start.schedule:
            found.setdefault(schedule)
        if len(found) == POOL:
            break
    return list(found)


def _places(schedules: list[Schedule]) -> Array:
    return np.array([schedule.computed_steps for schedule in schedules], dtype=np.float64)
