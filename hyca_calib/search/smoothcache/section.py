"""From the steps on which layers run to what these cost, and to a section of a plan."""

from collections.abc import Sequence
from typing import Any

from hyca_calib.search.assemble import section_of
from hyca_calib.search.problem import Problem
from hyca_calib.search.smoothcache.layers import Layers, Reused, measure_layers
from hyca_calib.search.smoothcache.rule import Runs, reused_at
from hyca_calib.search.watched_run import Points
from hyca_runtime.forecast import Forecast
from hyca_runtime.group import DimensionGroup, encode_channels
from hyca_runtime.network_plan import NetworkPlan
from hyca_runtime.schedule import EVERY, Action, Schedule
from hyca_runtime.solvers import Hold


def counted_layers(pipe: Any, problem: Problem, points: Points, runs: Runs) -> tuple[Layers, Runs]:
    """What steps cost that repeat what `runs` says, and the same without points that the network never comes to.

    Raises:
        AttachError: the network has no such layers.
    """

    def actions(names: Sequence[str]) -> list[Reused]:
        seen = {name: runs[name] for name in names}
        return [tuple(names), *(reused_at(seen, step) for step in range(problem.trace.num_steps))]

    layers = measure_layers(pipe, problem, points, actions)
    return layers, {name: runs[name] for name in layers.points}


def layered_section(problem: Problem, layers: Layers, runs: Runs) -> NetworkPlan:
    """A section whose layers run on the steps that `runs` says, and repeat their latest output on the others.

    Points that run on every step are left out, lest their outputs be remembered; a plan has at least one.
    """
    paused = {name: of_name for name, of_name in runs.items() if not all(of_name)} or dict(runs)
    schedule = layered_schedule(paused)
    points = {
        name: Forecast(
            at=layers.points[name],
            num_channels=layers.channels[name],
            groups={EVERY: (_held(layers.channels[name]),)},
            numel=layers.numel[name],
        )
        for name in paused
    }
    flops = tuple(layers.flops[action.forecast] for action in schedule.palette)
    return section_of(problem, "step", points, schedule, flops)


def layered_schedule(runs: Runs) -> Schedule:
    """What each step does; where every layer always runs, the palette still has the reuse of all points."""
    wanted = [reused_at(runs, step) for step in range(len(next(iter(runs.values()))))]
    palette = list(dict.fromkeys([(), *(wanted if any(wanted) else [tuple(runs)])]))
    table = tuple(palette.index(reused) for reused in wanted)
    return Schedule(palette=tuple(Action(forecast=reused) for reused in palette), tables={EVERY: table})


def _held(channels: int) -> DimensionGroup:
    return DimensionGroup(name="all", channels=encode_channels(range(channels)), solver=Hold().spec())
