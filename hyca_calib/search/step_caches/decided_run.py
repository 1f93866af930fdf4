"""What the policy of a plan decides in one run, and the plan that always does so."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from hyca_calib.pipelines.rollout import followed, sample_latents
from hyca_calib.pipelines.workload import Job
from hyca_calib.search.rows import with_forecasts
from hyca_runtime.attach.points import find_transformer
from hyca_runtime.network_plan import NetworkPlan
from hyca_runtime.plan import Plan
from hyca_runtime.report import RunReport
from hyca_runtime.schedule import EVERY, Schedule

Tables = Mapping[str, tuple[int, ...]]
"""The number of an action of the palette for every step, by guidance branch."""


@dataclass(frozen=True)
class DecidedRun:
    """One run of one sample.

    Attributes:
        latents: ``(1, ...)``.
        tables: what the calls of each branch did; of a video in chunks those of a usual chunk.
    """

    latents: Tensor
    report: RunReport
    tables: Tables

    @property
    def forecasts(self) -> bool:
        """Whether any call forecast something; the first action of a palette computes."""
        return any(any(table) for table in self.tables.values())


def decided_run(pipe: Any, section: NetworkPlan, job: Job, num_steps: int) -> DecidedRun:
    """Let one sample decide for itself: in a batch all follow the most demanding one."""
    tables, seen = defaultdict[int, dict[str, list[int]]](dict), Counter[tuple[object, ...]]()
    with followed(pipe, Plan(name="candidate", sections=(section,))) as session:

        def hear(*_: Any) -> None:
            for stream, count in session.report().streams.items():
                branch, part = str(stream[1]), stream[2]
                for number, action in enumerate(section.schedule.palette):
                    if (part == 0 or section.chunks) and count.actions[action] > seen[branch, part, number]:
                        seen[branch, part, number] += 1
                        tables[part].setdefault(branch, []).append(number)

        hook = find_transformer(pipe, section.component).register_forward_hook(hear)
        try:
            latents = sample_latents(pipe, [job], num_steps, 1)
        finally:
            hook.remove()
        by_cost = sorted(tables.values(), key=lambda of: sum(map(sum, of.values()))) or [{}]
        usual = by_cost[len(by_cost) // 2]
        return DecidedRun(latents, session.report(), {branch: tuple(table) for branch, table in usual.items()})


def as_decided(section: NetworkPlan, tables: Tables) -> NetworkPlan:
    """The plan that does in every run what was decided in one."""
    names = section.schedule.tables.keys()
    alike = names == {EVERY} and len(set(tables.values())) == 1
    named = {**dict.fromkeys(names, next(iter(tables.values()))), **({} if alike else tables)}
    schedule = Schedule(palette=section.schedule.palette, tables=named)
    points = {
        name: forecast.model_copy(update={"groups": {of: forecast.groups_of(of) for of in named}})
        for name, forecast in section.points.items()
    }
    return with_forecasts(section.model_copy(update={"schedule": schedule, "policy": None}), points)


def pasts_met(
    section: NetworkPlan, name: str, tables: Iterable[tuple[int, ...]], depth: int
) -> tuple[tuple[int, ...], ...]:
    """What forecasts of a point are made from in some runs: each step but the first, then the steps before it that
    computed the point, newest first, at most `depth`; and the beginnings of these, ascending. Forecasts of computed
    steps serve policies that learn from them.

    Args:
        tables: the number of an action of the palette for every step.
    """
    found = set[tuple[int, ...]]()
    for table in {*tables}:
        computed = list[int]()
        for step, number in enumerate(table):
            found.update((step, *computed[:length]) for length in range(1, min(depth, len(computed)) + 1))
            if section.keeps(section.schedule.palette[number], name):
                computed.insert(0, step)
    return tuple(sorted(found))
