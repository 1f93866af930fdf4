"""The problem that all ways of search are given: gap costs of one trace under one choice of settings."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from hyca_calib.quality.metrics import prompt_groups
from hyca_calib.search.candidate import Settings, partition
from hyca_calib.search.exact import GapTable, best_schedules, gap_table
from hyca_calib.search.presets import published_schedule
from hyca_calib.search.problem import Problem
from hyca_calib.search.replay import grouped
from hyca_runtime.schedule import Schedule
from studies.paper.chapter import Context
from studies.paper.planning.table_cost import table_cost
from studies.paper.replay_setup import Array

Found = TypeVar("Found")

SHARES = (0.12, 0.2, 0.28, 0.36, 0.52)
WARMUP = 3  # leading steps of the published rule


@dataclass(frozen=True)
class Instance:
    """One table of gap costs, no gap too long for it, and what dynamic programming finds there.

    Attributes:
        fit, judge, test: Gram matrices of the groups on the three splits, ``(group, step, step)``; `test` is for each
            prompt, ``(prompt, group, step, step)``.
        times, step_weights: ``(step,)``, see `hyca_calib.search.replay`.
        table_seconds, search_seconds: processor time for the table, and for all of `optimum`.
        optimum: the best schedule for each number of computed steps.
        prompts: a label of each sample of `test`, its prompt's; all have prompts of their own by default.
    """

    problem: Problem
    settings: Settings
    fit: Array
    judge: Array
    test: Array
    times: Array
    step_weights: Array
    table: GapTable
    table_seconds: float
    optimum: dict[int, Schedule]
    search_seconds: float
    seed: int
    quick: bool
    prompts: tuple[int, ...] | None = None

    @property
    def steps(self) -> int:
        return self.table.num_steps

    @property
    def counts(self) -> tuple[int, ...]:
        """Numbers of computed steps to compare at: those that the published rule can have."""
        wanted = [max(WARMUP + 1, round(share * self.steps)) for share in SHARES]
        return tuple(sorted({len(self.rule(count).computed_steps) for count in wanted}))

    def rule(self, count: int) -> Schedule:
        """The published rule with at most `count` computed steps."""
        return published_schedule(self.steps, count, WARMUP)

    def cost(self, schedule: Schedule) -> float:
        return float(table_cost(self.table, np.array([schedule.computed_steps]))[0])

    def excess(self, schedule: Schedule) -> float:
        """Cost over that of the best schedule with equally many computed steps."""
        return self.cost(schedule) / self.cost(self.optimum[len(schedule.computed_steps)])

    def rng(self, *salt: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, *salt))


def instance(context: Context) -> Instance:
    """The search's default settings on the context's trace."""
    problem, settings = context.problem, Settings()
    groups = partition(problem, settings, context.seed)
    fit, judge = (grouped(gram, problem.channel_gain, groups) for gram in (problem.fit, problem.select))
    prompts = problem.trace.samples("test")[: 3 if context.quick else None]
    test = np.stack([grouped(problem.trace.sample_gram(i), problem.channel_gain, groups) for i in prompts])
    times, weights, steps = problem.times(settings.axis), problem.step_weights, problem.trace.num_steps
    table, table_seconds = timed(
        lambda: gap_table(fit, judge, times, weights, settings.depth, settings.ridge, max_gap=steps)
    )
    optimum, search_seconds = timed(lambda: best_schedules(table, range(1, steps + 1), settings.start))
    return Instance(
        problem,
        settings,
        fit,
        judge,
        test,
        times,
        weights,
        table,
        table_seconds,
        optimum,
        search_seconds,
        context.seed,
        context.quick,
        prompt_groups(problem.trace.workload().of("test")[: len(prompts)]),
    )


def timed(function: Callable[[], Found]) -> tuple[Found, float]:
    """What `function` returns, and the seconds of processor time it took, all threads together."""
    begun = time.process_time()
    found = function()
    return found, time.process_time() - begun
