"""Lanes and plans that are searched for together, on the select split; what was found is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
from pydantic import BaseModel

from hyca_calib.bench.notebook import Notebook
from hyca_calib.lanes.choosing import Confirmed, Proposed, propose, rolled, ways_of
from hyca_calib.lanes.joint import Joint, Wall
from hyca_calib.lanes.measure import Bench, LaneRow
from hyca_calib.lanes.surrogate import Reaction, watch
from hyca_calib.records.console import say
from hyca_calib.search.problem import Problem
from hyca_runtime.errors import SamplerError
from hyca_runtime.samplers.following import Histories
from hyca_runtime.samplers.single_step import single_step

WATCHED, TRIES = 4, 150
"""Samples of the select split that are watched and rolled out, and candidates of one search."""
MODULES = ("hyca_runtime.samplers", "hyca_calib.lanes.measure")
"""Whose code decides what is drawn."""
FITTED = (*MODULES, "hyca_calib.lanes.fitted")


class Watched(BaseModel, frozen=True):
    """A `Reaction` without its sampler."""

    gram: list[list[float]]
    slopes: list[list[float]]


@dataclass(frozen=True)
class LaneSearch:
    """Every measurement is written down at once, and an interrupted search goes on.

    Attributes:
        select: samples of the select split.
    """

    problem: Problem
    notebook: Notebook
    select: Bench

    @cached_property
    def reaction(self) -> Reaction:
        """Of the network on the select samples."""
        bench = self.select

        def watched() -> Watched:
            say(f"watching how the network reacts, on {len(bench.jobs)} samples")
            found = watch(bench.pipe, bench.jobs, bench.num_steps, bench.batch)
            return Watched(gram=found.gram.tolist(), slopes=found.slopes.tolist())

        found = self.notebook.recall(Watched, "the network's reaction", watched, MODULES)
        sampler = single_step(bench.pipe.scheduler).on_host()  # it drew the reference with these steps
        return Reaction(np.array(found.gram), np.array(found.slopes), sampler)

    def rows(
        self, name: str, make: Callable[[], Sequence[LaneRow]], modules: tuple[str, ...] = MODULES, **told: Any
    ) -> tuple[LaneRow, ...]:
        """Rows of that name, measured unless they are known."""
        found = self.notebook.recall(tuple[LaneRow, ...], name, lambda: tuple(make()), modules, **told)
        for row in found:
            lane = f", lane {row.lane}" if len(row.starts) > 1 else ""
            say(f"{row.mean_db:6.2f} dB, {row.computed_passes} of {row.passes} passes computed: {name}{lane}")
        return found

    def on(self, bench: Bench, one: Confirmed) -> tuple[LaneRow, ...]:
        """What was confirmed, on other samples."""
        way = one.row.way
        make = partial(rolled, bench, self.problem, one.proposed, one.histories, way)
        return self.rows(way, lambda: [make()], FITTED, **_facts(one.proposed))

    def confirmed(self, wall: Wall, counts: Sequence[int]) -> Iterator[Confirmed]:
        """For every number of lanes what the surrogate thinks best, rolled out with each way of keeping histories."""
        for count in counts:
            if (proposed := self._proposed(wall, count)) is None:
                continue
            for histories in ways_of(proposed):
                way = described(proposed, histories)
                make = partial(rolled, self.select, self.problem, proposed, histories, way)
                (row,) = self.rows(f"select: {way}", lambda make=make: [make()], FITTED, **_facts(proposed))
                yield Confirmed(wall=wall.evaluations, proposed=proposed, histories=histories, row=row)

    def _proposed(self, wall: Wall, count: int) -> Proposed | None:
        def found() -> Proposed | None:
            try:
                return propose(self.reaction, wall, count, TRIES, told)
            except SamplerError as error:
                say(str(error))
                return None

        def told(tried: int, error: float) -> None:
            if tried % 50 == 0:
                say(f"{count} lanes, a wall of {wall.evaluations:g}: {tried} of {TRIES} tried, error {error:.3g}")

        facts: dict[str, Any] = {"tries": TRIES, "forecast": wall.forecast, "lanes": count}
        name = f"wall {wall.evaluations:g}"
        return self.notebook.recall(Proposed | None, name, found, (Joint.__module__,), **facts)  # type: ignore[arg-type]


def _facts(proposed: Proposed) -> dict[str, Any]:
    return proposed.model_dump(mode="json")


def described(proposed: Proposed, histories: Histories) -> str:
    """A proposal in words."""
    if (count := len(proposed.starts)) == 1:
        return "fitted plan"
    kept = f", histories {histories}" if len(ways_of(proposed)) > 1 else ""
    return f"{count} lanes, fitted plans{kept}"
