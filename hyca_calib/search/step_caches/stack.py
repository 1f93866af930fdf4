"""The blocks of a network that are not always computed: what steps cost, and the plan that decides on them."""

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch

from hyca_calib.search.assemble import section_of
from hyca_calib.search.problem import Problem
from hyca_calib.search.step_caches.rule import Rule
from hyca_calib.search.watched_run import WatchedCall, last_call
from hyca_runtime.attach.attachment import Attachment
from hyca_runtime.attach.late import Probe, Staged
from hyca_runtime.errors import AttachError
from hyca_runtime.feature import Feature, widths
from hyca_runtime.flop_count import count_flops
from hyca_runtime.network_plan import NetworkPlan
from hyca_runtime.schedule import EVERY, Action, Schedule


@dataclass(frozen=True)
class Stack:
    """What is known of a network's blocks.

    Attributes:
        channels, numels: of each point, by name, see `Forecast`.
        flops: of one step of one sample with each action of the palette, all guidance branches together: with all
            blocks, and with those that run beside forecasts.
    """

    channels: Mapping[str, int]
    numels: Mapping[str, int]
    flops: tuple[float, ...]

    @property
    def full_flops(self) -> float:
        return self.flops[0]

    @property
    def light_flops(self) -> float:
        """With the fewest blocks."""
        return self.flops[-1]

    def weighing(self, depth: int, rule: Rule) -> Self:
        """The same with forecasts of so many computed features, instead of those of `rule`."""
        numels = [sum(self.numels[name] for name in action.forecast) for action in rule.palette]
        more = (2 * (depth - rule.depth) * numel for numel in numels)
        return replace(self, flops=tuple(map(operator.add, self.flops, more)))

    def share(self, computed: float) -> float:
        """FLOPs of a run over the full run's.

        Args:
            computed: the share of the calls on which all blocks run.
        """
        return computed + (1 - computed) * self.light_flops / self.full_flops


def measure_stack(pipe: Any, problem: Problem, rule: Rule) -> tuple[Rule, Stack]:
    """Count what steps cost, on the last call of a short run; of chunks that share calls the trace tells.

    Returns:
        The rule as it fits the network, and the costs.

    Raises:
        AttachError: the network cannot be probed, or does not come to the point.
    """
    if problem.chunking is not None:
        return rule, traced_stack(problem, rule)
    points, times = rule.points, problem.trace.calls
    attachment, call = last_call(pipe, problem, points, rule.probes if len(points) == 1 else 0)
    missing = points.keys() - (call.features if call else {})
    if missing or call is None:
        told = f"{type(attachment.module).__name__} never comes to the point '{points[min(missing)]}'"
        raise AttachError(told)
    numels = {name: times * sum(part.numel() for part in feature) for name, feature in call.features.items()}

    def cost(action: Action) -> float:
        with torch.no_grad():
            counted = count_flops(lambda: _answer(attachment, call, rule, action))
        return times * counted + 2 * rule.solver.depth * sum(numels[name] for name in action.forecast)

    channels = {name: sum(widths(call.features[name], point.channel_axis)) for name, point in points.items()}
    fitting = rule.fitting(problem, attachment.module, call)
    return fitting, Stack(channels, numels, tuple(map(cost, rule.palette)))


def traced_stack(problem: Problem, rule: Rule) -> Stack:
    """What steps cost of a rule that forecasts one of the trace's points, before any block runs.

    Raises:
        AttachError: it does not.
    """
    if rule.probes or rule.point not in problem.trace.points:
        raise AttachError(
            f"chunks that share calls are told apart before blocks run, at a point of the trace; {rule.preset} decides "
            "behind blocks, or at another: take --preset flowcache"
        )
    alone = problem.trace.at(rule.point)
    flops = alone.cost.full_flops, alone.cost.predicted_flops(rule.depth)
    (name,) = rule.points
    return Stack({name: alone.num_channels}, {name: alone.cost.feature_numel}, flops)


def _answer(attachment: Attachment, call: WatchedCall, rule: Rule, action: Action) -> Any:
    """What a network makes of a call with an action, forecasts of which are right."""
    given = {name: call.features[name] for name in action.forecast}
    if action.computes or not rule.probes:
        return attachment.run(call.args, call.kwargs, (), given)
    *spans, last = rule.points

    def behind(_: Probe) -> Feature:
        return given[last]

    decide = Staged(spans[0], lambda _: given.get(spans[0]), behind) if spans else behind
    blocks = rule.points[last].leading or rule.probes
    return attachment.run_late(call.args, call.kwargs, blocks, decide, lambda _: None, last)


def deciding_section(
    problem: Problem,
    stack: Stack,
    rule: Rule,
    threshold: float,
    computed: Sequence[int],
    most: int | None,
    partly: Sequence[int] = (),
    halfway: Sequence[int] = (),
) -> NetworkPlan:
    """The section whose steps are decided in each run.

    Args:
        computed: what a usual run computes, for those who look at the plan.
        most: bound of the computed calls of any run.
        partly: steps on which it does the first of the actions that forecast; the last on all others.
        halfway: computed steps of the branch that leads on which others do the last.
    """
    points = {name: rule.forecast(stack.channels[name], stack.numels[name], name) for name in rule.points}
    table = tuple(
        0 if step in computed else 1 if step in partly else len(rule.actions) for step in range(problem.trace.num_steps)
    )
    others = tuple(len(rule.actions) if step in halfway else action for step, action in enumerate(table))
    tables = (
        {EVERY: table} if rule.lead is None else {EVERY: others, rule.lead: table, **dict.fromkeys(rule.others, others)}
    )
    schedule = Schedule(palette=rule.palette, tables=tables)
    section = section_of(problem, "step", points, schedule, stack.flops, rule.policy(threshold).spec(most))
    return section if rule.lead is None else section.model_copy(update={"stacked": problem.trace.stacked})
