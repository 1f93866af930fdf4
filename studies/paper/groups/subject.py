"""What the questions of the chapter share: the data, the schedules, and how groups are made."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hyca_calib.clusters.stability import labels_by
from hyca_calib.costs.budget import Budget
from hyca_calib.features.descriptors import describe_channels
from hyca_calib.quality.metrics import prompt_groups
from hyca_calib.search.candidate import Settings
from hyca_calib.search.problem import Problem
from hyca_calib.search.replay import grouped
from hyca_calib.search.tune import DESCRIPTOR_SETS, solve
from hyca_runtime.schedule import Schedule
from studies.paper.chapter import Context
from studies.paper.effects import Ratio, over
from studies.paper.replay_setup import Array, Labels, ReplaySetup, Rows, by_label, horizon_taps
from studies.paper.stored import Recorded, read

HORIZON = "horizon taps"
USUAL = "energy+dynamics"
CLUSTERERS = ("kmeans", "gaussian_mixture", "agglomerative")
RIDGES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
SETS_OF_DESCRIPTORS = (*dict.fromkeys((*DESCRIPTOR_SETS, "spectrum", "energy+dynamics+spectrum")), HORIZON)
BUDGET = "5x"


@dataclass(frozen=True)
class Subject:
    """The data under study.

    Attributes:
        gain: squared gain of each channel through the network's tail, ``(channel,)``.
        searched: the searched schedule of the budget.
        published: the rule of TaylorSeer and HyCa with about as many computed steps.
        ridge: pull of fitted taps towards linear extrapolation, chosen by cross-validation over prompts.
        usual_ridge: the search's default.
        prompts: a label of each judged sample, its prompt's; all have prompts of their own by default.
    """

    recorded: Recorded
    gain: Array
    schedule: Schedule
    rule: Schedule
    searched: ReplaySetup
    published: ReplaySetup
    ridge: float
    usual_ridge: float
    seed: int
    quick: bool
    prompts: tuple[int, ...] | None = None

    @property
    def channels(self) -> int:
        return len(self.gain)

    @property
    def counts(self) -> tuple[int, ...]:
        """Numbers of groups tried, per channel left out."""
        wanted = (1, 4, 16) if self.quick else (1, 2, 4, 8, 16, 32, 64)
        return tuple(k for k in wanted if k < self.channels)

    @property
    def few_counts(self) -> tuple[int, ...]:
        """Numbers of groups worth comparing as groups."""
        wanted = (2, 4) if self.quick else (2, 4, 8, 16)
        return tuple(k for k in wanted if k < self.channels)

    @property
    def descriptor_sets(self) -> tuple[str, ...]:
        return (USUAL, HORIZON) if self.quick else SETS_OF_DESCRIPTORS

    @property
    def clusterers(self) -> tuple[str, ...]:
        return CLUSTERERS[:1] if self.quick else CLUSTERERS

    def labels(self, descriptors: str, num_groups: int, clusterer: str = "kmeans", gram: Array | None = None) -> Labels:
        """Groups of the channels, from all fit prompts unless another Gram is given."""
        if num_groups == 1:
            return np.zeros(self.channels, dtype=np.int64)
        found = describe(self.searched, descriptors, self.recorded.fit if gram is None else gram, self.ridge)
        return labels_by(clusterer, found, num_groups, self.seed)

    def group_rows(self, labels: Labels, gram: Array | None = None, ridge: float | None = None) -> Rows:
        """Taps fitted per group, one row for each channel."""
        fit = grouped(self.recorded.fit if gram is None else gram, self.gain, members(labels))
        rows = self.searched.fit(fit, self.ridge if ridge is None else ridge)
        return by_label(rows, np.unique(labels, return_inverse=True)[1])

    def judge(self, rows: Rows) -> Array:
        """Held-out cost of each judged prompt on the searched schedule, ``(prompt,)``."""
        return np.asarray(self.searched.cost(self.recorded.judged, rows) @ self.gain)

    def closed_costs(self, setup: ReplaySetup) -> tuple[Array, Array]:
        """Of closed forms on fit ``(solver, channel)`` and judged prompts ``(solver, prompt, channel)``, weighted."""
        fit = setup.closed_costs(self.recorded.fit).sum(1) * self.gain
        return fit, setup.closed_costs(self.recorded.judged).sum(1) * self.gain

    def ratio(self, one: Array, other: Array, level: float = 0.95) -> Ratio:
        """Total of one over total of other, with its bootstrap interval over prompts; both ``(judged sample,)``."""
        return over(one, other, self.seed, self.prompts, level)


def subject(context: Context) -> Subject:
    """Read the trace, find the schedules, choose the ridge."""
    problem, settings = context.problem, Settings()
    prompts, most = (4, 8) if context.quick else (16, None)
    recorded = read(problem.trace, problem.channel_gain, context.seed, prompts=prompts, sets=4, most=most)
    schedule = solve(problem, settings, [Budget.parse(BUDGET)], context.seed)[0].schedule
    rule = _rule_like(schedule)
    searched, published = (_setup(problem, plan, settings) for plan in (schedule, rule))
    ridge = cross_validated(searched, recorded.sets, problem.channel_gain)
    return Subject(
        recorded,
        problem.channel_gain,
        schedule,
        rule,
        searched,
        published,
        ridge,
        settings.ridge,
        context.seed,
        context.quick,
        prompt_groups(problem.trace.workload().of("select")[:most]),
    )


def describe(setup: ReplaySetup, name: str, gram: Array, ridge: float, window: slice | None = None) -> Array:
    """Descriptors ``(channel, feature)`` by name, of a window of steps or of all.

    Raises:
        ValueError: the window predicts nothing, so it has no horizon taps.
    """
    if name == HORIZON:
        inside = setup if window is None else setup.within(window)
        if not inside.gaps:
            raise ValueError(f"no gap starts in steps {window}")
        return horizon_taps(inside, gram, ridge)
    part = gram if window is None else gram[:, window, window]
    return describe_channels(part, tuple(name.split("+")))


def members(labels: Labels) -> list[NDArray[np.int64]]:
    """Channel indices of each label that occurs, ascending."""
    return [np.flatnonzero(labels == label) for label in np.unique(labels)]


def bare(value: float) -> float | None:
    """A number for JSON, which knows no NaN."""
    return None if np.isnan(value) else float(value)


def cross_validated(setup: ReplaySetup, sets: Array, gain: Array) -> float:
    """The ridge whose per-channel taps, fitted on all sets ``(set, channel, step, step)`` but one, err least on it."""
    if len(sets) < 2:
        return Settings().ridge
    rest = [np.delete(sets, i, axis=0).mean(0) for i in range(len(sets))]
    costs = {
        ridge: sum(float(setup.cost(sets[i], setup.fit(rest[i], ridge)) @ gain) for i in range(len(sets)))
        for ridge in RIDGES
    }
    return min(costs, key=lambda ridge: costs[ridge])


def _setup(problem: Problem, schedule: Schedule, settings: Settings) -> ReplaySetup:
    return ReplaySetup.of(schedule, problem.times(settings.axis), problem.step_weights, settings.depth)


def _rule_like(schedule: Schedule) -> Schedule:
    """First three steps, then every N-th, N such that about as many steps are computed."""
    steps, count = schedule.num_steps, len(schedule.computed_steps)
    if count < 4:
        return Schedule.every(steps, -(-steps // count))
    options = [Schedule.every(steps, interval, 3) for interval in range(2, steps)]
    return min(options, key=lambda option: abs(len(option.computed_steps) - count))
