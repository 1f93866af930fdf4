"""What the questions on solvers share: data, published schedules, axes, and the cost of every formula."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hyca_calib.quality.metrics import prompt_groups
from hyca_calib.search.candidate import partition
from hyca_calib.search.problem import AXES
from hyca_calib.search.replay import Array, Multistep, grouped
from hyca_calib.search.settings import Settings
from hyca_calib.search.solver_table import ALL_SOLVERS, solver_label
from hyca_runtime.schedule import Schedule
from hyca_runtime.solvers import AdaptiveSolver
from studies.paper.chapter import Context, Table
from studies.paper.intervals import Ratio, logarithm, over, told
from studies.paper.replay import ReplaySetup, Rows, channel_gram, read, samples
from studies.paper.words import table

WARMUP = 3
"""Leading steps that are computed in the published rule."""
WAYS: tuple[Multistep, ...] = ("anchored", "recursive")
GROUPS = 8
DEEPEST = max(solver.depth for solver in ALL_SOLVERS)
ADAPTIVE = {solver_label(s): s for s in ALL_SOLVERS if isinstance(s, AdaptiveSolver)}
CLOSED = {solver_label(s): s for s in ALL_SOLVERS if not isinstance(s, AdaptiveSolver)}


class Use(NamedTuple):
    """A solver by its label, and how it is used."""

    solver: str
    axis: str
    multistep: Multistep = "anchored"


@dataclass(frozen=True)
class Sharing:
    """Gram matrices of channels that share a row of weights.

    Attributes:
        fit: mean over the fit prompts, channels weighted by their gain, ``(group, step, step)``.
        judged: held-out prompts, weighted alike, ``(prompt, branch, group, step, step)``.
        plain: the same without weights, which is what a solver sees that reads the features.
    """

    fit: Array
    judged: Array
    plain: Array


@dataclass(frozen=True)
class Dataset:
    """The data under study.

    Attributes:
        sharings: a row of weights for all channels, for each of some groups, for each channel.
        times, step_weights: position of each step, by axis, and weight of an error there.
        intervals: N of the published rules.
        sets: disjoint sets of fit prompts, ``(set, channel, step, step)``.
        gain: squared gain of each channel through the network's tail.
        prompts: a label of each held-out sample, its prompt's; all have prompts of their own by default.
    """

    sharings: dict[str, Sharing]
    times: dict[str, Array]
    step_weights: Array
    intervals: tuple[int, ...]
    sets: Array
    gain: Array
    seed: int
    prompts: tuple[int, ...] | None = None

    @property
    def one(self) -> Sharing:
        """All channels share a row."""
        return next(iter(self.sharings.values()))

    @cached_property
    def axes(self) -> tuple[str, ...]:
        """Axes that are not another one in other units; the first is the papers'."""
        found: dict[str, Array] = {}
        for axis, times in self.times.items():
            place = (times - times[0]) / (times[-1] - times[0])
            if not any(np.allclose(place, other, atol=1e-6) for other in found.values()):
                found[axis] = place
        return tuple(found)

    @property
    def head(self) -> tuple[str, ...]:
        """A column for each interval."""
        return tuple(f"N = {n}" for n in self.intervals)

    def table(self, name: str, cells: Mapping[Any, Sequence[Ratio]], **facts: Any) -> Table:
        """A row for each of them, an interval in each column."""
        return table("solvers", name, {key: map(told, of) for key, of in cells.items()}, columns=self.head, **facts)

    def schedule(self, interval: int) -> Schedule:
        return Schedule.every(len(self.step_weights), interval, WARMUP)

    def setup(self, interval: int, axis: str = "step", depth: int = Settings().depth) -> ReplaySetup:
        return ReplaySetup(self.schedule(interval), self.times[axis], self.step_weights, depth, DEEPEST)

    def setups(self, axis: str = "step") -> list[ReplaySetup]:
        """At each interval."""
        return [self.setup(interval, axis) for interval in self.intervals]

    def ratios(self, one: Array, other: Array) -> list[Ratio]:
        """Total cost of one over that of other at each interval; both ``(interval, prompt)``."""
        return [self.over(a, b) for a, b in zip(one, other, strict=True)]

    def over(self, one: Array, other: Array) -> Ratio:
        """The same, geometric mean over intervals."""
        return over(one, other, self.seed, self.prompts)

    @cached_property
    def ridge(self) -> float:
        """Pull of fitted taps, chosen by cross-validation over fit prompts at the middle interval."""
        return self.setup(self.intervals[len(self.intervals) // 2]).best_ridge(self.sets, self.gain)

    def judge(self, shared: Sharing, rows: Sequence[Rows]) -> Array:
        """Held-out cost ``(interval, prompt)`` of the rows at each interval."""
        return np.stack([a.cost(shared.judged, taps).sum((1, 2)) for a, taps in zip(self.setups(), rows, strict=True)])

    def learnt_costs(self, solver: AdaptiveSolver, shared: Sharing, axis: str) -> Array:
        """Held-out cost ``(interval, prompt)`` of weights that are learnt from each prompt's features."""
        rows = [learned_rows(solver, a, learn(solver, a, shared.plain)) for a in self.setups(axis)]
        return self.judge(shared, rows)

    @cached_property
    def costs(self) -> dict[Use, Array]:
        """Held-out cost ``(interval, prompt)`` of every solver in every use, one row of weights for all channels."""
        found = {use: self.judge(self.one, rows) for use, rows in self.closed.items()}
        for name, solver in ADAPTIVE.items():
            found |= {Use(name, axis): self.learnt_costs(solver, self.one, axis) for axis in self.axes}
        return found

    def best_closed(self, axes: Sequence[str]) -> tuple[list[Use], Array]:
        """The closed form and use that cost least on the fit prompts, by interval; held-out ``(interval, prompt)``."""
        fit = {use: cost for use, cost in self.fit_costs.items() if use.axis in axes}
        totals = np.round(logarithm(np.stack(list(fit.values()))), 9)  # of uses that are the same, the first
        chosen = [list(fit)[i] for i in totals.argmin(0)]
        return chosen, np.stack([self.costs[use][i] for i, use in enumerate(chosen)])

    @cached_property
    def closed(self) -> dict[Use, list[Rows]]:
        """The rows of every closed form in every use, at each interval."""
        return {
            Use(name, axis, way): [setup.rows(CLOSED[name], way) for setup in self.setups(axis)]
            for way, name, axis in itertools.product(WAYS, CLOSED, self.axes)
        }

    @cached_property
    def fit_costs(self) -> dict[Use, Array]:
        """Mean cost ``(interval,)`` on the fit prompts."""
        return {
            use: np.array([a.cost(self.one.fit, taps)[0] for a, taps in zip(self.setups(), rows, strict=True)])
            for use, rows in self.closed.items()
        }


def dataset(context: Context) -> Dataset:
    """Read the trace and group the channels."""
    problem, trace = context.problem, context.problem.trace
    intervals, most = ((2, 3, 5), 8) if context.quick else (tuple(range(2, 8)), None)
    gain, channels = problem.channel_gain, np.arange(trace.num_channels)
    recorded = read(trace, gain, context.seed, prompts=1, sets=4, most=most)
    streams = np.stack([[channel_gram(branch[None]) for branch in sample] for sample in samples(trace, "select", most)])
    ways = {
        "one group": [channels],
        f"{GROUPS} groups": partition(problem, Settings(groups=min(GROUPS, len(channels))), context.seed),
        "per channel": list(channels[:, None]),
    }
    return Dataset(
        {name: sharing(recorded.fit, streams, gain, groups) for name, groups in ways.items()},
        {axis: problem.times(axis) for axis in AXES},
        problem.step_weights,
        intervals,
        recorded.sets,
        gain,
        context.seed,
        prompt_groups(trace.workload().of("select")[:most]),
    )


def sharing(fit: Array, streams: Array, gain: Array, groups: Sequence[NDArray[np.int64]]) -> Sharing:
    """Sum channels ``(channel, step, step)``, and those of each ``(prompt, branch)``, by group."""

    def summed(weight: Array) -> Array:
        return np.stack([[grouped(gram, weight, groups) for gram in branches] for branches in streams])

    return Sharing(grouped(fit, gain, groups), summed(gain), summed(np.ones(len(gain))))


def learn(solver: AdaptiveSolver, setup: ReplaySetup, gram: Array) -> list[Tensor]:
    """What the runtime's own solver learns in each gap, ``(...)``, from plain inner products ``(..., step, step)``.

    The axes in front count prompts, guidance branches and groups, which a run never mixes.

    Raises:
        ValueError: a gap has fewer features than the solver needs.
    """
    found = []
    for history, targets in setup.gaps:
        if len(history) < solver.depth:
            raise ValueError(f"step {targets[0]}: {solver.name} needs {solver.depth} features, got {len(history)}")
        recent = list(history[: solver.depth])
        differences = np.diff(np.diff(gram[..., np.array(recent)[:, None], recent], axis=-1), axis=-2)
        newest_first = torch.from_numpy(np.moveaxis(differences, (-2, -1), (0, 1)))
        found.append(solver.learn(newest_first, setup.times[recent]))
    return found


def learned_rows(solver: AdaptiveSolver, setup: ReplaySetup, learnt: list[Tensor]) -> Rows:
    """The weights ``(..., history, target)`` of each gap."""
    rows = []
    for (history, targets), known in zip(setup.gaps, learnt, strict=True):
        times = setup.times[list(history[: solver.depth])]
        columns = [solver.adapted(known, times, float(setup.times[t])).numpy() for t in targets]
        rows.append(np.moveaxis(np.stack(columns, axis=-1), 0, -2))
    return rows


def noise_gain(rows: Rows) -> float:
    """Sum of absolute weights, mean over predicted steps: how noise in the history comes out at worst."""
    return float(np.concatenate([np.abs(taps).sum(-2).ravel() for taps in rows]).mean())
