"""A quantised layer whose output is corrected as a plan says."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from hyca_runtime.attach.proxies import Proxy
from hyca_runtime.errors import AttachError
from hyca_runtime.solvers import Fitted


class Corrected(Proxy):
    """Scales and shifts every channel of what `inner` puts out by the row of a step.

    It is one module on all steps, whose row changes in place, so that a compiled network is not compiled again.

    Args:
        rows: weights of the output and of the constant 1, ``(step, 2, channel)``; 1 and 0 on steps without.
        path: of the layer, for what is told.
        width: its channels.

    Raises:
        AttachError: rows are for another number of channels.
    """

    def __init__(self, inner: nn.Module, rows: Fitted, path: str, width: int, device: torch.device) -> None:
        super().__init__(inner)
        if rows.weights.shape[2] not in (1, width):
            raise AttachError(f"{path} has {width} channels, its corrections are for {rows.weights.shape[2]}")
        table = np.broadcast_to(rows.weights, (*rows.weights.shape[:2], width))
        neutral = np.broadcast_to([[[1.0], [0.0]]], (1, 2, width))
        self._places = {step: i for i, step in enumerate(rows.steps)}
        with torch.inference_mode(mode=False):
            self._table = torch.tensor(np.concatenate([table, neutral]), dtype=torch.float32, device=device)
            self._row = self._table[-1].clone()

    def come_to(self, step: int | None) -> None:
        """Correct as on a step of the plan; not at all on None, or on one without a row."""
        self._row.copy_(self._table[-1 if step is None else self._places.get(step, -1)])

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.inner(x)
        scale, shift = self._row
        corrected: Tensor = made * scale + shift  # in float32: a scale is nearer to 1 than bfloat16 tells
        return corrected.to(made.dtype)
