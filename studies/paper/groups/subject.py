"""What the questions of the chapter share: the data, the schedules, and how groups are made."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hyca_calib.clusters.base import Labels
from hyca_calib.clusters.stability import labels_by
from hyca_calib.features.descriptors import describe_channels
from hyca_calib.quality.metrics import prompt_groups
from hyca_calib.search.presets import published_schedule
from hyca_calib.search.replay import Array
from hyca_calib.search.settings import Settings
from hyca_calib.search.solver_table import POOL
from hyca_calib.search.tune import CLUSTERERS, DESCRIPTOR_SETS
from studies.paper.chapter import Context
from studies.paper.intervals import Ratio, over
from studies.paper.replay import Recorded, ReplaySetup, Rows, horizon_taps, read
from studies.paper.rollouts import optimum

HORIZON, USUAL = "horizon taps", "energy+dynamics"
SETS_OF_DESCRIPTORS = (*dict.fromkeys((*DESCRIPTOR_SETS, "spectrum", "energy+dynamics+spectrum")), HORIZON)
PAIRED = 8
"""Single prompts that are compared with each other."""


@dataclass(frozen=True)
class Subject:
    """The data under study.

    Attributes:
        gain: squared gain of each channel through the network's tail, ``(channel,)``.
        searched: the searched schedule of the budget.
        published: the rule of TaylorSeer and HyCa with as many computed steps.
        ridge: pull of fitted taps towards linear extrapolation, chosen by cross-validation over prompts.
        prompts: a label of each judged sample, its prompt's; all have prompts of their own by default.
    """

    recorded: Recorded
    gain: Array
    searched: ReplaySetup
    published: ReplaySetup
    ridge: float
    seed: int
    quick: bool
    prompts: tuple[int, ...] | None = None

    @property
    def setups(self) -> dict[str, ReplaySetup]:
        """Both schedules."""
        return {"searched": self.searched, "published": self.published}

    @property
    def each(self) -> Labels:
        """Every channel its own group."""
        return np.arange(len(self.gain))

    @property
    def counts(self) -> tuple[int, ...]:
        """Numbers of groups tried, per channel left out."""
        wanted = (1, 4, 16) if self.quick else (1, 2, 4, 8, 16, 32, 64)
        return tuple(k for k in wanted if k < len(self.gain))

    @property
    def few_counts(self) -> tuple[int, ...]:
        """Numbers of groups worth comparing as groups."""
        wanted = (2, 4) if self.quick else (2, 4, 8, 16)
        return tuple(k for k in wanted if k < len(self.gain))

    @property
    def descriptor_sets(self) -> tuple[str, ...]:
        return (USUAL, HORIZON) if self.quick else SETS_OF_DESCRIPTORS

    @property
    def clusterers(self) -> tuple[str, ...]:
        return CLUSTERERS[:1] if self.quick else CLUSTERERS

    def describe(self, name: str, gram: Array, window: slice | None = None) -> Array:
        """Descriptors ``(channel, feature)`` by name, of a window of steps or of all."""
        if name == HORIZON:
            return horizon_taps(self.searched.within(window), gram, self.ridge)
        steps = window or slice(None)
        return describe_channels(gram[:, steps, steps], tuple(name.split("+")))

    def labels(self, descriptors: str, num_groups: int, clusterer: str = "kmeans", gram: Array | None = None) -> Labels:
        """Groups of the channels, from all fit prompts, or of what has another Gram."""
        found = self.describe(descriptors, self.recorded.fit if gram is None else gram)
        return labels_by(clusterer, found, num_groups, self.seed)

    def group_rows(self, labels: Labels, gram: Array | None = None) -> Rows:
        """Taps fitted per group, one row for each channel."""
        return self.searched.fit_groups(self.recorded.fit if gram is None else gram, self.gain, labels, self.ridge)

    def judge(self, rows: Rows) -> Array:
        """Held-out cost of each judged prompt on the searched schedule, ``(prompt,)``."""
        return np.asarray(self.searched.cost(self.recorded.judged, rows) @ self.gain)

    def closed_costs(self, setup: ReplaySetup) -> tuple[Array, Array]:
        """Of closed forms on fit ``(solver, channel)`` and judged prompts ``(solver, prompt, channel)``, weighted."""
        fit, judged = (
            setup.closed_costs(gram).sum(1) * self.gain for gram in (self.recorded.fit, self.recorded.judged)
        )
        return fit, judged

    def closed_errors(self, setup: ReplaySetup) -> tuple[Array, Array]:
        """The same of plain squared errors."""
        return setup.closed_errors(self.recorded.fit), setup.closed_errors(self.recorded.judged)

    def ratio(self, one: Array, other: Array, level: float = 0.95) -> Ratio:
        """Total of one over total of other, with its bootstrap interval over prompts; both ``(judged sample,)``."""
        return over(one, other, self.seed, self.prompts, level)


def best_closed(
    fit: Array,
    judged: Array,
    groups: Sequence[NDArray[np.int64]],
    allowed: Sequence[int] = range(len(POOL)),
) -> Array:
    """Held-out cost ``(prompt,)`` of the closed form of each group that costs least where it is chosen.

    Args:
        fit, judged: weighted costs: ``(solver, channel)`` choose, ``(solver, prompt, channel)`` are paid.
        allowed: numbers of the solvers that may be chosen.
    """
    total = np.zeros(judged.shape[1])
    for group in groups:
        best = allowed[int(fit[np.ix_(np.asarray(allowed), group)].sum(1).argmin())]
        total += judged[best][:, group].sum(1)
    return total


def subject(context: Context) -> Subject:
    """Read the trace, find the schedules, choose the ridge."""
    problem, settings = context.problem, Settings()
    prompts, most = (4, 8) if context.quick else (16, None)
    recorded = read(problem.trace, problem.channel_gain, context.seed, prompts=prompts, sets=4, most=most)
    schedule = optimum(context, settings).schedule
    rule = published_schedule(schedule.num_steps, len(schedule.computed_steps), 3)
    times, weights = problem.times(settings.axis), problem.step_weights
    searched, published = (ReplaySetup(plan, times, weights) for plan in (schedule, rule))
    ridge = searched.best_ridge(recorded.sets, problem.channel_gain)
    judged = prompt_groups(problem.trace.workload().of("select")[:most])
    return Subject(recorded, problem.channel_gain, searched, published, ridge, context.seed, context.quick, judged)
