"""FLOPs, counted while something runs."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch._ops import HigherOrderOperator
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_flop_count


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
