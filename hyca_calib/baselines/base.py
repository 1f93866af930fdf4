"""What a method is: a family of settings on axes, of which the bench tries more until the best ones lie inside."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hyca_calib.pipelines.workload import Job

if TYPE_CHECKING:
    from hyca_calib.search.problem import Problem

Value = int | float | str
Settings = Mapping[str, Value]
"""One value for every axis."""
Applied = AbstractContextManager[Any]
"""A method on a pipeline, for the while."""

INTERVALS = (*range(2, 26), 30, 36, 43, 50, 100)
"""Of full steps; with the last, only the first ones are computed."""
WARMUPS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 25)
"""First steps that are computed."""


@dataclass(frozen=True)
class Axis:
    """One thing to set.

    Attributes:
        ladder: every value that may be tried, in order.
        first: what is tried at once, by the rungs nearest to it; all rungs if empty. Then the neighbours of the best
            setting at every cost are tried.
        closed: whether nothing lies beyond the ladder's ends (a cache interval of 2 is the least). An open ladder
            must reach beyond what is worth trying; the bench reports an optimum at its end.
        ordered: whether neighbours on the ladder are alike. Of an axis of names all values are tried at once.
    """

    name: str
    ladder: tuple[Value, ...]
    first: tuple[Value, ...] = ()
    closed: bool = False
    ordered: bool = True

    @property
    def first_rungs(self) -> tuple[Value, ...]:
        """The values that are tried at once."""
        return nearest(self.ladder, self.first) if self.first else self.ladder

    def ways(self, value: Value) -> tuple[tuple[Value, ...], ...]:
        """The rungs below `value`, nearest first, and those above it; nothing where there is no order."""
        if not self.ordered:
            return ()
        at = self.ladder.index(value)
        return self.ladder[:at][::-1], self.ladder[at + 1 :]

    def at_edge(self, value: Value) -> bool:
        """Whether a better value may lie beyond the ladder."""
        return self.ordered and not self.closed and value in (self.ladder[0], self.ladder[-1])


@dataclass(frozen=True)
class HalfOpenAxis(Axis):
    """An axis whose least value is natural (an interval of 2, no block) and that is open above."""

    def at_edge(self, value: Value) -> bool:
        return not self.closed and value == self.ladder[-1]


def ladder(low: float, high: float, factor: float = 1.25) -> tuple[float, ...]:
    """Values from `low` to at least `high`, each `factor` times the one before, to two digits."""
    values = [low]
    while values[-1] < high:
        values.append(float(f"{values[-1] * factor:.2g}"))
    return tuple(values)


def counts(low: int, high: int, factor: float = 1.3) -> tuple[int, ...]:
    """Whole numbers from `low` to `high`, both among them: each next or `factor` times the one before."""
    found = [low]
    while found[-1] < high:
        found.append(min(high, max(found[-1] + 1, round(factor * found[-1]))))
    return tuple(found)


def nearest(rungs: Sequence[Value], wanted: Sequence[Value]) -> tuple[Value, ...]:
    """Of `rungs`, those that are wanted, or else nearest to what is wanted; in their order."""
    found = {one if one in rungs else min(rungs, key=lambda rung: abs(float(rung) - float(one))) for one in wanted}
    return tuple(rung for rung in rungs if rung in found)


@dataclass(frozen=True)
class Baseline:
    """One setting of one method.

    Attributes:
        family: the method; its settings compete among themselves first.
        steps: what the pipeline is called with.
        applied: wraps the sampling of the pipeline it is given.
        alone: whether it draws each sample alone, for it decides by sample, and in a batch all follow the one that asks
            for most.
    """

    name: str
    family: str
    steps: int
    applied: Callable[[Any], Applied]
    settings: Settings = field(default_factory=dict)
    alone: bool = False

    def batch(self, usual: int) -> int:
        """How many samples it draws at once where others draw `usual`."""
        return 1 if self.alone else usual


@dataclass(frozen=True)
class Family:
    """A method with all its settings.

    Attributes:
        source: paper, and whose code runs.
        apply: puts the method, so set, on a pipeline for the while.
        steps: what the pipeline is called with instead of `num_steps`, where the settings decide that.
        allows: whether settings go together.
        refused: why this network cannot have it, with the line of the upstream project; it has no settings then.
        alone: see `Baseline.alone`.
    """

    name: str
    source: str
    axes: tuple[Axis, ...]
    apply: Callable[[Any, Settings], Applied]
    num_steps: int
    steps: Callable[[Settings], int] | None = None
    allows: Callable[[Settings], bool] = lambda settings: True
    refused: str = ""
    alone: bool = False

    def baseline(self, settings: Settings) -> Baseline:
        """The method so set."""
        told = (f"{key}={value:g}" if isinstance(value, float) else f"{key}={value}" for key, value in settings.items())
        steps = self.steps(settings) if self.steps else self.num_steps
        name = " ".join([self.name, *told])
        return Baseline(name, self.name, steps, lambda pipe: self.apply(pipe, settings), dict(settings), self.alone)

    def first(self) -> Iterator[Settings]:
        """Settings that are tried at once."""
        if self.refused:
            return
        for values in itertools.product(*(axis.first_rungs for axis in self.axes)):
            settings = dict(zip((axis.name for axis in self.axes), values, strict=True))
            if self.allows(settings):
                yield settings

    def ways(self, settings: Settings) -> Iterator[list[Settings]]:
        """On every axis in both directions: what lies there, nearest first."""
        for axis in self.axes:
            for way in axis.ways(settings[axis.name]):
                moved = ({**settings, axis.name: value} for value in way)
                yield [near for near in moved if self.allows(near)]

    def edges(self, settings: Settings) -> list[str]:
        """Axes on which a better setting may lie beyond the ladder."""
        return [axis.name for axis in self.axes if axis.at_edge(settings[axis.name])]


@dataclass(frozen=True)
class Setup:
    """What every method may know beforehand.

    Attributes:
        jobs: samples of the fit split, for calibration.
        recall: what was learnt under a name that says everything it depends on, by the function unless it is known;
            JSON.
        problem: statistics of a trace at the trunk.
    """

    jobs: Sequence[Job]
    num_steps: int
    recall: Callable[[str, Callable[[], Any]], Any]
    problem: "Callable[[], Problem]"
