"""A quantised layer whose input channels were brought to one size before its weight was rounded."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hyca_runtime.attach.phased import phased
from hyca_runtime.attach.proxies import Proxy
from hyca_runtime.errors import AttachError
from hyca_runtime.variant import VariantSpec


class Balanced(Proxy):
    """Divides each channel of the input by a power of two, by which `inner`'s weight was multiplied.

    Args:
        powers: two to the exponent of each channel, ``(channel,)``.
    """

    def __init__(self, inner: nn.Module, powers: Tensor) -> None:
        super().__init__(inner)
        with torch.inference_mode(mode=False):
            self._shares = (1 / powers).clone()

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.inner(x * self._shares)
        return made


def balanced(layer: nn.Linear, shifts: Sequence[int], phase: float, spec: VariantSpec, path: str) -> Balanced:
    """`layer` quantised with its input balanced; `layer` stays as it is.

    Inputs are not looked at: a balance that was made in bfloat16 may be too much for those of float16.

    Args:
        shifts: exponents, see `VariantSpec.balance`.
        phase: see `VariantSpec.phases`.
        path: of the layer, for what is told.

    Raises:
        AttachError: there is another number of channels, or the precision is too narrow for it; or as `quantised`.
    """
    if len(shifts) != layer.in_features:
        raise AttachError(f"{path} takes {layer.in_features} channels, its balance is for {len(shifts)}")
    weight = layer.weight.detach()
    powers = torch.exp2(torch.tensor(shifts, dtype=torch.float32)).to(weight.device, weight.dtype)
    if not (weight * powers).isfinite().all() and weight.isfinite().all():
        raise AttachError(f"{path} cannot be balanced in {weight.dtype}, its weight overflows; use torch.bfloat16")
    moved = nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta")
    moved.weight, moved.bias = nn.Parameter(weight * powers, requires_grad=False), layer.bias
    return Balanced(phased(moved.train(layer.training), phase, spec), powers)
