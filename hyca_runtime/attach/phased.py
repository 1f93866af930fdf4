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
    """

    def __init__(self, inner: nn.Module, offsets: Tensor) -> None:
        super().__init__(inner)
        with torch.inference_mode(mode=False):
            self._offsets = offsets.clone()

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.inner(x)
        added = x.sum(-1, keepdim=True, dtype=self._offsets.dtype) * self._offsets
        return (made - added).to(made.dtype)


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
    moved.weight = nn.Parameter(weight.to(own.dtype) if spec.simulated else weight, requires_grad=False)
    moved.bias = layer.bias
    return Phased(quantised(moved, spec), offsets[:, 0])
