"""All blocks of a network with the first of them as a probe: what steps cost, and the plan that decides on it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from hyca_calib.costs.flops import count_flops
from hyca_calib.search.assemble import section_of
from hyca_calib.search.dicache.rule import POINT, STACK, Rule
from hyca_calib.search.problem import Problem
from hyca_calib.search.watched_run import PROBE_STEPS, WatchedCall, watch
from hyca_runtime.errors import AttachError
from hyca_runtime.feature import widths
from hyca_runtime.network_plan import NetworkPlan
from hyca_runtime.schedule import Schedule
from hyca_runtime.solvers import Aligned


@dataclass(frozen=True)
class Stack:
    """What is known of a network's blocks.

    Attributes:
        channels, numel: of what they add, see `Forecast`.
        full_flops, probed_flops: of one step of one sample, all guidance branches together: with all blocks, and with
            the probe and a forecast.
    """

    channels: int
    numel: int
    full_flops: float
    probed_flops: float


def measure_stack(pipe: Any, problem: Problem, blocks: int) -> Stack:
    """Count what steps cost, on the last call of a run of two steps.

    Raises:
        AttachError: the network cannot be probed.
    """
    calls = list[WatchedCall]()

    def hear(call: WatchedCall) -> None:
        calls[:] = [call]

    attachment = watch(pipe, problem, {STACK: POINT}, problem.workload.of("fit")[0], PROBE_STEPS, hear)
    if not calls:
        raise AttachError(f"{type(attachment.module).__name__} never comes to the point '{POINT}'")
    call, times = calls[0], problem.trace.calls
    feature = call.features[STACK]
    numel = times * sum(part.numel() for part in feature)
    with torch.no_grad():
        full = count_flops(lambda: attachment.run(call.args, call.kwargs, (), {}))
        probed = count_flops(
            lambda: attachment.run_late(call.args, call.kwargs, blocks, lambda probe: feature, lambda captured: None)
        )
    forecast = 2 * Aligned().depth * numel
    return Stack(sum(widths(feature, POINT.channel_axis)), numel, times * full, times * probed + forecast)


def probing_section(
    problem: Problem, stack: Stack, rule: Rule, threshold: float, computed: Sequence[int], most: int | None
) -> NetworkPlan:
    """The section whose steps are decided by the probe.

    Args:
        computed: what a usual run computes, for those who look at the plan.
        most: bound of the computed calls of any run.
    """
    forecast = rule.forecast(stack.channels, stack.numel)
    schedule = Schedule.from_steps(problem.trace.num_steps, computed, STACK)
    flops = tuple(stack.full_flops if action.computes else stack.probed_flops for action in schedule.palette)
    return section_of(problem, "step", {STACK: forecast}, schedule, flops, rule.policy(threshold).spec(most))
