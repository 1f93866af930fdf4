"""What steps cost: FLOPs counted, time measured."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch._ops import HigherOrderOperator
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_flop_count

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


def count_flops(function: Callable[[], Any]) -> float:
    """FLOPs of the matrix products, convolutions and attention that `function` runs."""
    counter = _Counter()
    with counter:
        function()
    return float(counter.flops)


class _Counter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up what is computed inside, by torch's formulas.

    torch's own counter keeps account by module, which never ends on networks that hold themselves (cache-dit), and
    takes longer than most operations of a small network.
    """

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0.0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if isinstance(func, HigherOrderOperator):
            return NotImplemented
        if _is_composite(func):
            with self:
                return func.decompose(*args, **given)
        output, kind = func(*args, **given), func.overloadpacket
        if kind in _BY_SHAPE:
            self.flops += _BY_SHAPE[kind](*map(_shape, args), **given, out_shape=_shape(output))
        elif kind in flop_registry:
            self.flops += flop_registry[kind](*args, **given, out_val=output)
        return output


@cache
def _is_composite(func: Any) -> bool:
    """Whether an operation is made of others."""
    return bool(func._can_decompose())  # noqa: SLF001  (torch has no other word for it)


def _shape(argument: Any) -> Any:
    return argument.shape if isinstance(argument, Tensor) else argument


def _fused_attention(query: torch.Size, key: torch.Size, value: torch.Size, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]


_BY_SHAPE = {kind: formula.__wrapped__ for kind, formula in flop_registry.items() if hasattr(formula, "__wrapped__")}
"""torch's formulas that ask for shapes, without what finds these in trees of arguments."""
_BY_SHAPE[torch.ops.aten._int_mm] = _BY_SHAPE[torch.ops.aten.mm]  # noqa: SLF001  (of quantised layers)
if hasattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu"):  # which torch does not count
    _BY_SHAPE[torch.ops.aten._scaled_dot_product_flash_attention_for_cpu] = _fused_attention  # noqa: SLF001


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
