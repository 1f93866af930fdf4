"""A quantised layer whose weight was moved by a share of a rounding step before it was rounded."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hyca_runtime.attach.proxies import Proxy
from hyca_runtime.attach.quantised import quantised
from hyca_runtime.variant import VariantSpec

LEVELS = 127.5
"""Rounding steps from zero to the largest of a row."""


class Phased(Proxy):
    """Takes off the output what `inner`'s weight was moved by.

    Args:
        offsets: what was added to every weight of a row, ``(row,)``.
        widens: whether `inner` takes its input in the precision of the offsets.
    """

    def __init__(self, inner: nn.Module, offsets: Tensor, widens: bool) -> None:
        super().__init__(inner)
        self._widens = widens
        with torch.inference_mode(mode=False):
            self._offsets = offsets.clone()

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.inner(x.to(self._offsets.dtype) if self._widens else x)
        added = x.sum(-1, keepdim=True, dtype=self._offsets.dtype) * self._offsets
        return (made - added).to(x.dtype)


def phased(layer: nn.Linear, phase: float, spec: VariantSpec) -> nn.Module:
    """`layer` quantised at a phase of `VariantSpec.phases`; `layer` stays as it is.

    Rows are moved towards their largest weight, which stays as large as it is, so that they are rounded in the same
    steps at every phase: a whole step less is the same phase.

    Raises:
        AttachError: as `quantised`.
    """
    if not phase:
        return quantised(layer, spec)
    own = layer.weight.detach()
    weight = own.to(torch.promote_types(own.dtype, torch.float32))  # bfloat16 has no share of a step
    largest = weight.abs().amax(1, keepdim=True)
    offsets = torch.where(weight.amax(1, keepdim=True) == largest, phase, phase - 1) * largest / LEVELS
    weight = (weight + offsets).clamp(-largest, largest)
    moved = nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta").train(layer.training)
    moved.weight, moved.bias = nn.Parameter(weight, requires_grad=False), layer.bias
    if spec.simulated and layer.bias is not None:  # its product is one of such weights
        moved.bias = nn.Parameter(layer.bias.detach().to(weight.dtype), requires_grad=False)
    return Phased(quantised(moved, spec), offsets[:, 0], widens=spec.simulated)
