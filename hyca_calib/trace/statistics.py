r"""Gram statistics: all that any linear forecaster's error depends on.

For channel c and steps s, t of one guidance branch

.. math:: G_c[s, t] = \sum_{\text{samples, tokens}} F_c[s]\, F_c[t].

The squared error of predicting step t by weights w over steps h is then
:math:`w^T G_c[h,h] w - 2 w^T G_c[h,t] + G_c[t,t]`, whatever w, h and t: no feature is read again.
These are differences of nearly equal numbers, so sums run in float64 where the device has it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from hyca_calib.workload import SPLITS, Split
from hyca_runtime.feature import Feature

__all__ = ["GramAccumulator"]


class GramAccumulator:
    """Sums Gram matrices per split on the device of the features; memory ``splits * branch * channel * step^2``."""

    def __init__(self) -> None:
        self._sums: dict[Split, Tensor] = {}

    def add(self, split: Split, features: Sequence[Sequence[Feature]]) -> None:
        """Add samples.

        Args:
            split: where the samples belong.
            features: ``[branch][step]``, one ``(sample, token, channel)`` for each part.
        """
        gram = torch.stack([torch.cat([_gram(part) for part in zip(*steps, strict=True)]) for steps in features])
        self._sums[split] = self._sums[split] + gram if split in self._sums else gram

    def result(self) -> np.ndarray:
        """float64 ``(split, branch, channel, step, step)``."""
        return torch.stack([self._sums[split] for split in SPLITS]).double().cpu().numpy()


def _gram(steps: Sequence[Tensor]) -> Tensor:
    """``(channel, step, step)`` of one part of one branch."""
    dtype = torch.float32 if steps[0].device.type == "mps" else torch.float64
    rows = torch.stack([step.flatten(0, -2) for step in steps])  # (step, sample * token, channel)
    rows = rows.permute(2, 0, 1).to(dtype)
    return rows @ rows.transpose(1, 2)
