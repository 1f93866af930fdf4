"""Equal terms for ways of searching by rollouts: one start, one currency, one score."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hyca_calib.search.assemble import build_section
from hyca_calib.search.candidate import Candidate, Settings
from hyca_calib.search.problem import Problem, Samples
from hyca_runtime.schedule import Schedule
from studies.paper.replay_setup import Array
from studies.paper.rollouts import log_errors


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
    problem: Problem
    settings: Settings
    samples: Samples
    start: Schedule
    budget: float
    seed: int
    known: dict[Schedule, float] = field(default_factory=dict)
    parts: dict[Schedule, Array] = field(default_factory=dict)
    curve: list[tuple[float, float]] = field(default_factory=list)
    spent: float = 0.0

    @property
    def best(self) -> Schedule:
        return min(self.known, key=lambda schedule: self.known[schedule])

    def score(self, schedule: Schedule) -> float:
        """Mean log error over all samples.

        Raises:
            Spent: no rollout is left.
        """
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
            section = build_section(Candidate(self.problem, self.settings, schedule, self.seed))
            rest = self.samples[len(have) : count]
            found = log_errors(self.pipe, section, rest)
            self.parts[schedule] = have = np.concatenate([have, found])
            self.spent += len(rest.jobs) / len(self.samples.jobs)
        return have[:count]
