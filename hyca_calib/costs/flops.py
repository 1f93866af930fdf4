"""What steps cost: FLOPs counted, time measured."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

TIMED_TAPS = 3
"""Features that the weighted sum of a timed step is over."""


@dataclass(frozen=True)
class TimedOn:
    """Where seconds were measured, see `hyca_runtime.plan_facts.Timing`."""

    device: str
    dtype: str
    batch: int


@dataclass(frozen=True)
class CostModel:
    """What one step of one sample costs, all guidance branches together.

    Attributes:
        full_flops: of a step on which the network is computed.
        tail_flops: of a predicted step without its weighted sum: embeddings, final norm, projection.
        feature_numel: numbers in one feature, for the cost of the weighted sum.
        full_seconds: of a step on which the network is computed.
        predicted_seconds: of a predicted step, its weighted sum over `TIMED_TAPS` features.
        timed_on: None in traces from before it was kept, whose predicted seconds are without the sum.
    """

    full_flops: float
    tail_flops: float
    feature_numel: int
    full_seconds: float
    predicted_seconds: float
    timed_on: TimedOn | None = None

    def predicted_flops(self, depth: int) -> float:
        """FLOPs of a predicted step: the tail, and a multiply and an add for each tap."""
        return self.tail_flops + 2.0 * depth * self.feature_numel

    def run_flops(self, num_steps: int, num_computed: int, depth: int) -> float:
        return num_computed * self.full_flops + (num_steps - num_computed) * self.predicted_flops(depth)

    def flops_ratio(self, num_steps: int, num_computed: int, depth: int) -> float:
        """FLOPs of the full run over those of the accelerated one."""
        return num_steps * self.full_flops / self.run_flops(num_steps, num_computed, depth)


def measure_seconds(function: Callable[[], Any], repeats: int = 3) -> float:
    """Median of `seconds_of` over so many calls of `function`, after one that warms up."""
    return statistics.median([seconds_of(function) for _ in range(repeats + 1)][1:])


def seconds_of(function: Callable[[], Any]) -> float:
    """Wall time of one call of `function`; work on a GPU is waited for, before and after."""
    _synchronize()
    begun = time.perf_counter()
    function()
    _synchronize()
    return time.perf_counter() - begun


def _synchronize() -> None:
    """Wait for every GPU that this process has work on; the network need not be on the current one."""
    used = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    for device in range(torch.cuda.device_count()) if used else ():
        if torch.cuda.memory_reserved(device):
            torch.cuda.synchronize(device)
