"""Products of 8-bit integers on processors that have no instruction for them.

There torch multiplies in a plain loop, which takes far longer than a product of float32. float32 counts to 2^24 without
gaps, so the sum of so few products that it stays below is exact, in whichever order they are added.
"""

from __future__ import annotations

from functools import reduce
from operator import add
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from hyca_runtime.attach.proxies import Proxy

EXACT = 2**24 // 2**14
"""Products of two 8-bit integers that float32 adds up without rounding."""


def are_native(device: torch.device) -> bool:
    """Whether a device multiplies 8-bit integers faster than float32; every GPU that torchao serves does."""
    if device.type != "cpu":
        return True
    told = (getattr(torch.cpu, name, bool) for name in ("_is_vnni_supported", "_is_amx_tile_supported"))
    return any(has() for has in told)


def integer_product(a: Tensor, b: Tensor) -> Tensor:
    """``a @ b`` of 8-bit integers, as int32, by float32 products of `EXACT` columns each; equal to the integer."""
    with torch.autocast(a.device.type, enabled=False):
        columns = zip(torch.split(a, EXACT, 1), torch.split(b, EXACT, 0), strict=True)
        parts = [(left.float() @ right.float()).to(torch.int32) for left, right in columns]
    return reduce(add, parts)


class ByFloats(Proxy):
    """Runs `inner` with products of 8-bit integers made by float32; its output is the same to the bit."""

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_compiling():  # which makes its own product
            return self.inner(x)  # type: ignore[no-any-return]
        with _ByFloats():  # type: ignore[no-untyped-call]
            return self.inner(x)  # type: ignore[no-any-return]


def by_floats(layer: nn.Module, device: torch.device) -> nn.Module:
    """`layer`, whose products are of 8-bit integers, so that it does not take longer than need be on `device`."""
    return layer if are_native(device) else ByFloats(layer)


class _ByFloats(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is torch.ops.aten._int_mm.default:  # noqa: SLF001  (torch's own name for it)
            return integer_product(*args)
        return func(*args, **kwargs or {})
