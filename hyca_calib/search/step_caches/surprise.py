"""A searched schedule whose computed steps move with what each of them tells, see `PacedBySurprise`: ours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import ClassVar, Self

import numpy as np

from hyca_calib.search.problem import Problem
from hyca_calib.search.replay import forecast_error
from hyca_calib.search.sources import ADAPTIVE
from hyca_calib.search.step_caches.decided_run import DecidedRun
from hyca_calib.search.step_caches.fitted_taps import DEPTH, fitted_row
from hyca_calib.search.step_caches.rule import Rule
from hyca_runtime.point import CachePoint
from hyca_runtime.policies import PacedBySurprise
from hyca_runtime.policies.paced_by_surprise import LEAST
from hyca_runtime.schedule import Schedule

DEGREE = 2
"""Of the polynomial in time of what is usual."""
LONGEST = 10
"""Gap from which it is learnt."""
LEAST_SPREAD = 0.05


@dataclass(frozen=True)
class Surprise(Rule):
    """The settings of an adaptive plan, but the threshold.

    Attributes:
        at: what is forecast.
        pace, response, level, power, spread: see `PacedBySurprise`.
    """

    at: CachePoint
    pace: tuple[float, ...]
    response: float = 0.0
    level: tuple[float, ...] = (0.0,)
    power: float = 1.0
    spread: float = 1.0
    preset: ClassVar[str] = ADAPTIVE

    @classmethod
    def of(cls, at: CachePoint, schedule: Schedule) -> Self:
        """The rule that follows a schedule, at a threshold of 1."""
        ends = [*schedule.computed_steps, schedule.num_steps]
        pace = [1.0] + [0.0] * (schedule.num_steps - 1)
        for begin, end in pairwise(ends):
            pace[begin + 1 : end + 1] = [1 / (end - begin)] * (min(end, schedule.num_steps - 1) - begin)
        return cls(at, tuple(pace))

    @property
    def probes(self) -> int:
        return 0

    @property
    def point(self) -> CachePoint:
        return self.at

    def policy(self, threshold: float) -> PacedBySurprise:
        return PacedBySurprise(threshold, self.pace, self.response, self.level, self.power, self.spread)

    def knowing(self, problem: Problem, runs: Sequence[DecidedRun]) -> Self:
        """The rule with what is usual: how it grows with gap and time from the trace, how much and how spread in runs.

        Runs of one schedule cannot tell a long gap from a late one.

        Args:
            runs: of one sample each.
        """
        times, gaps, off = np.array(_expected(problem, len(self.pace))).T
        regressors = np.stack([*(times**k for k in range(DEGREE + 1)), np.log(gaps)], axis=1)
        (*level, power), *_ = np.linalg.lstsq(regressors, np.log(off), rcond=None)
        known = replace(self, level=tuple(map(float, level)), power=float(power))
        policy, seen = known.policy(1.0), [row for run in runs for row in _surprises(run, len(self.pace))]
        if len(seen) < 2:
            return known
        away = np.array([np.log(off) - policy.usual(time, gap) for time, gap, off in seen])
        level[0] += away.mean()
        return replace(known, level=tuple(map(float, level)), spread=max(LEAST_SPREAD, float(away.std())))


def _expected(problem: Problem, num_steps: int) -> list[tuple[float, float, float]]:
    """Time as a share of the run, gap, and the relative error of a fitted row on the fit split, for even gaps."""
    found, gram = list[tuple[float, float, float]](), problem.fit
    for step in range(2, num_steps):
        for gap in range(1, min(LONGEST, step // 2) + 1):
            past = list(range(step - gap, -1, -gap))[:DEPTH]
            error = forecast_error(gram, fitted_row(problem, past, step), past, step).sum()
            size = gram[:, step, step].sum()
            if error > 0 and size > 0:
                found.append((step / num_steps, float(gap), float(np.sqrt(error / size))))
    return found


def _surprises(run: DecidedRun, num_steps: int) -> list[tuple[float, float, float]]:
    """Time as a share of the run, gap, and how far a forecast was off, of the computed calls of a run."""
    found, computed = list[tuple[float, float, float]](), run.report.computed_at
    gaps = {float(there): there - here for here, there in pairwise(computed[LEAST - 1 :])}
    for count in run.report.streams.values():
        for step, told in count.surprises:
            off = max((number for numbers in told.values() for number in numbers), default=0.0)
            if off > 0 and step in gaps:
                found.append((step / num_steps, gaps[step], off))
    return found
