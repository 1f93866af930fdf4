"""A searched schedule whose computed steps move with what each of them tells, see `PacedBySurprise`: ours."""

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
"""Of the polynomial in time beside which growth with the gap is fitted."""
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
    first: ClassVar[float] = 1.0

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
        """The rule with what is usual: how it grows with the gap from the trace, its level and spread from runs.

        Runs of one schedule cannot tell a long gap from a late one.

        Args:
            runs: of one sample each.
        """
        times, gaps, off = np.log(np.array(_expected(problem, len(self.pace)))).T
        regressors = np.stack([*(np.exp(times) ** k for k in range(DEGREE + 1)), gaps], axis=1)
        power = float(np.linalg.lstsq(regressors, off, rcond=None)[0][-1])
        seen = [row for run in runs for row in _surprises(run)]
        if not seen:
            return replace(self, power=power)
        steps, gaps, off = np.log(np.array(seen)).T
        steps, levels = np.rint(np.exp(steps)), off - power * gaps
        known = sorted({*steps.tolist()})
        means = [float(levels[steps == step].mean()) for step in known]
        table = np.interp(np.arange(len(self.pace)), known, means)
        spread = max(LEAST_SPREAD, float(np.std(levels - table[steps.astype(int)])))
        return replace(self, level=tuple(table.tolist()), power=power, spread=spread)


def _expected(problem: Problem, num_steps: int) -> list[tuple[float, float, float]]:
    """Step, gap, and the relative error of a fitted row on the fit split, for even gaps."""
    found, gram = list[tuple[float, float, float]](), problem.fit
    for step in range(2, num_steps):
        for gap in range(1, min(LONGEST, step // 2) + 1):
            past = list(range(step - gap, -1, -gap))[:DEPTH]
            error = forecast_error(gram, fitted_row(problem, past, step), past, step).sum()
            size = gram[:, step, step].sum()
            if error > 0 and size > 0:
                found.append((step, gap, float(np.sqrt(error / size))))
    return found


def _surprises(run: DecidedRun) -> list[tuple[float, float, float]]:
    """Step, gap, and how far a forecast was off, of the computed calls of a run."""
    found, computed = list[tuple[float, float, float]](), run.report.computed_at
    gaps = {float(there): there - here for here, there in pairwise(computed[LEAST - 1 :])}
    for count in run.report.streams.values():
        for step, told in count.surprises:
            off = max((number for numbers in told.values() for number in numbers), default=0.0)
            if off > 0 and step in gaps:
                found.append((step, gaps[step], off))
    return found
