"""Lanes and plans that are searched for together, on the select split; what was found is kept."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
from pydantic import BaseModel

from hyca_calib.bench.notebook import Notebook
from hyca_calib.lanes.choosing import Confirmed, Proposed, best_of, propose, ways_of
from hyca_calib.lanes.fitted import fitted_plans
from hyca_calib.lanes.joint import Joint, Wall, joint_error
from hyca_calib.lanes.measure import Bench, LaneRow
from hyca_calib.lanes.surrogate import Reaction, watch
from hyca_calib.records.console import say
from hyca_calib.search.problem import Problem
from hyca_runtime import Plan
from hyca_runtime.errors import SamplerError
from hyca_runtime.samplers import Lanes
from hyca_runtime.samplers.following import Histories
from hyca_runtime.samplers.single_step import single_step

WATCHED, TRIES = 3, 300
"""Samples of the select split that are watched and rolled out, and candidates of one search."""
MODULES = ("hyca_runtime.samplers", "hyca_calib.lanes.measure")
"""Whose code decides what is drawn."""
FITTED = (*MODULES, "hyca_calib.lanes.fitted")
USUAL: Histories = "kept"
"""What lanes do with their features at corrections when different lanes are compared."""


class Watched(BaseModel, frozen=True):
    """A `Reaction` without its sampler."""

    gram: list[list[float]]
    slopes: list[list[float]]


@dataclass(frozen=True)
class LaneSearch:
    """Every measurement is written down at once, and an interrupted search goes on.

    Attributes:
        select: samples of the select split.
        tries: candidates of one search.
    """

    problem: Problem
    notebook: Notebook
    select: Bench
    tries: int = TRIES

    @cached_property
    def reaction(self) -> Reaction:
        """Of the network on the select samples."""
        bench = self.select

        def watched() -> Watched:
            say(f"watching how the network reacts, on {len(bench.jobs)} samples")
            found = watch(bench.pipe, bench.jobs, bench.num_steps, bench.batch)
            return Watched(gram=found.gram.tolist(), slopes=found.slopes.tolist())

        found = self.notebook.recall(Watched, "the network's reaction", watched, (*MODULES, watch.__module__))
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
        return self.rows(
            way, lambda: [self._rolled(bench, one.proposed, one.histories)], FITTED, **_facts(one.proposed)
        )

    def alone(self, bench: Bench, plan: Plan, way: str) -> tuple[LaneRow, ...]:
        """A plan as it is."""
        content = plan.model_dump_json(include={"sections"})
        return self.rows(way, lambda: [bench.plan_alone(plan, way)], plan=content)

    def fitted_alone(self, bench: Bench, plan: Plan) -> tuple[LaneRow, ...]:
        """A plan's steps with rows that are fitted, as those of lanes are."""
        steps = plan.section.schedule.computed_steps
        joint = Joint(Lanes(bench.num_steps, (0,)), frozenset(steps))
        one = Proposed.of(joint, joint_error(self.reaction, joint))
        make = partial(self._rolled, bench, one, USUAL)
        return self.rows(described(one, USUAL), lambda: [make()], FITTED, starts=one.starts, heavy=steps)

    def confirmed(self, wall: Wall, counts: Sequence[int]) -> Iterator[Confirmed]:
        """For every number of lanes what the surrogate thinks best, rolled out; of the best several lanes also with
        histories that are treated otherwise."""
        proposals = [found for count in counts if (found := self._proposed(wall, count)) is not None]
        tried = [self._confirmed(wall, proposed, USUAL) for proposed in proposals]
        best = best_of(tried, wall.evaluations, range(2, 1 + max(counts)))
        yield from tried
        if best is not None:
            for histories in ways_of(best.proposed):
                if histories != USUAL:
                    yield self._confirmed(wall, best.proposed, histories)

    def _confirmed(self, wall: Wall, proposed: Proposed, histories: Histories) -> Confirmed:
        way, make = described(proposed, histories), partial(self._rolled, self.select, proposed, histories)
        (row,) = self.rows(f"select: {way}", lambda: [make()], FITTED, **_facts(proposed))
        return Confirmed(wall=wall.evaluations, proposed=proposed, histories=histories, row=row)

    def _rolled(self, bench: Bench, proposed: Proposed, histories: Histories) -> LaneRow:
        """The fast lane's sample under plans that are fitted for these lanes; of one lane the plan alone."""
        if proposed not in self._plans:
            self._plans[proposed] = fitted_plans(self.problem, proposed.joint)
        plans, way = self._plans[proposed], described(proposed, histories)
        if len(plans) == 1:
            return bench.plan_alone(plans[0], way)
        return bench.plans_in_lanes(way, proposed.joint.lanes, plans, histories)[0]

    @cached_property
    def _plans(self) -> dict[Proposed, tuple[Plan, ...]]:
        return {}

    def _proposed(self, wall: Wall, count: int) -> Proposed | None:
        def found() -> Proposed | None:
            try:
                return propose(self.reaction, wall, count, self.tries, told)
            except SamplerError as error:
                say(str(error))
                return None

        def told(tried: int, error: float) -> None:
            if tried % 100 == 0:
                say(f"{count} lanes, a wall of {wall.evaluations:g}: {tried} of {self.tries} tried, error {error:.3g}")

        facts: dict[str, Any] = {"tries": self.tries, "forecast": wall.forecast, "lanes": count}
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
