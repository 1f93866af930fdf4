"""The problem that all ways of search are given: gap costs of one trace under the search's default settings."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from hyca_calib.quality.metrics import prompt_groups
from hyca_calib.search.candidate import partition
from hyca_calib.search.exact import GapTable, best_schedules, gap_table
from hyca_calib.search.presets import published_schedule
from hyca_calib.search.problem import Problem
from hyca_calib.search.replay import Array, grouped
from hyca_calib.search.settings import Settings
from hyca_runtime.schedule import Schedule
from studies.paper.chapter import Context
from studies.paper.planning.baselines import table_cost

Found = TypeVar("Found")

SETTINGS = Settings()
SHARES = (0.12, 0.2, 0.28, 0.36, 0.52)
WARMUP = 3  # leading steps of the published rule


@dataclass(frozen=True)
class Instance:
    """One table of gap costs, no gap too long for it, and what dynamic programming finds there.

    Attributes:
        fit, judge, test: Gram matrices of the groups on the three splits, ``(group, step, step)``; `test` is for each
            prompt, ``(prompt, group, step, step)``.
        times: ``(step,)``, see `hyca_calib.search.replay`.
        table_seconds, search_seconds: processor time for the table, and for all of `optimum`.
        optimum: the best schedule for each number of computed steps.
        prompts: a label of each sample of `test`, its prompt's.
    """

    problem: Problem
    fit: Array
    judge: Array
    test: Array
    times: Array
    table: GapTable
    table_seconds: float
    optimum: dict[int, Schedule]
    search_seconds: float
    prompts: tuple[int, ...]
    seed: int
    quick: bool

    @property
    def steps(self) -> int:
        return self.table.num_steps

    @property
    def usual(self) -> int:
        """Evaluations of a usual run of annealing: what claims are about."""
        return 100 if self.quick else 10_000

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
    problem, trace = context.problem, context.problem.trace
    groups = partition(problem, SETTINGS, context.seed)
    prompts = trace.samples("test")[: 3 if context.quick else None]
    tests = [grouped(trace.sample_gram(i), problem.channel_gain, groups) for i in prompts]
    fit, judge = (grouped(gram, problem.channel_gain, groups) for gram in (problem.fit, problem.select))
    times, weights, steps = problem.times(SETTINGS.axis), problem.step_weights, trace.num_steps
    table, table_seconds = timed(lambda: gap_table(fit, judge, times, weights, SETTINGS.depth, SETTINGS.ridge, steps))
    optimum, seconds = timed(lambda: best_schedules(table, range(1, steps + 1), SETTINGS.start))
    labels = prompt_groups(trace.workload().of("test")[: len(prompts)])
    found = table, table_seconds, optimum, seconds
    return Instance(problem, fit, judge, np.stack(tests), times, *found, labels, context.seed, context.quick)


def timed(function: Callable[[], Found]) -> tuple[Found, float]:
    """What `function` returns, and the seconds of processor time it took, all threads together."""
    begun = time.process_time()
    found = function()
    return found, time.process_time() - begun
