"""All blocks of a network, or those behind a probe: what steps cost, and the plan that decides on them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from hyca_calib.costs.flops import count_flops
from hyca_calib.search.assemble import section_of
from hyca_calib.search.problem import Problem
from hyca_calib.search.step_caches.rule import STACK, Rule
from hyca_calib.search.watched_run import PROBE_STEPS, WatchedCall, watch
from hyca_runtime.errors import AttachError
from hyca_runtime.feature import widths
from hyca_runtime.network_plan import NetworkPlan
from hyca_runtime.schedule import Schedule


@dataclass(frozen=True)
class Stack:
    """What is known of a network's blocks.

    Attributes:
        channels, numel: of what they add, see `Forecast`.
        full_flops, light_flops: of one step of one sample, all guidance branches together: with all blocks, and with
            the probe, if there is one, and a forecast.
    """

    channels: int
    numel: int
    full_flops: float
    light_flops: float

    def share(self, computed: float) -> float:
        """FLOPs of a run over the full run's.

        Args:
            computed: the share of the calls on which all blocks run.
        """
        return computed + (1 - computed) * self.light_flops / self.full_flops


def measure_stack(pipe: Any, problem: Problem, rule: Rule) -> tuple[Rule, Stack]:
    """Count what steps cost, on the last call of a run of two steps.

    Returns:
        The rule as it fits the network, and the costs.

    Raises:
        AttachError: the network cannot be probed, or does not come to the point.
    """
    calls, point = list[WatchedCall](), rule.point

    def hear(call: WatchedCall) -> None:
        calls[:] = [call]

    attachment = watch(pipe, problem, {STACK: point}, problem.workload.of("fit")[0], PROBE_STEPS, hear, rule.probes)
    if not calls:
        raise AttachError(f"{type(attachment.module).__name__} never comes to the point '{point}'")
    call, times = calls[0], problem.trace.calls
    feature = call.features[STACK]
    numel = times * sum(part.numel() for part in feature)

    def light() -> Any:
        if not rule.probes:
            return attachment.run(call.args, call.kwargs, (), {STACK: feature})
        return attachment.run_late(call.args, call.kwargs, rule.probes, lambda probe: feature, lambda captured: None)

    with torch.no_grad():
        full = count_flops(lambda: attachment.run(call.args, call.kwargs, (), {}))
        cached = count_flops(light)
    forecast = 2 * rule.solver.depth * numel
    channels = sum(widths(feature, point.channel_axis))
    fitting = rule.fitting(problem, attachment.module, call)
    return fitting, Stack(channels, numel, times * full, times * cached + forecast)


def deciding_section(
    problem: Problem, stack: Stack, rule: Rule, threshold: float, computed: Sequence[int], most: int | None
) -> NetworkPlan:
    """The section whose steps are decided in each run.

    Args:
        computed: what a usual run computes, for those who look at the plan.
        most: bound of the computed calls of any run.
    """
    forecast = rule.forecast(stack.channels, stack.numel)
    schedule = Schedule.from_steps(problem.trace.num_steps, computed, STACK)
    flops = tuple(stack.full_flops if action.computes else stack.light_flops for action in schedule.palette)
    return section_of(problem, "step", {STACK: forecast}, schedule, flops, rule.policy(threshold).spec(most))
