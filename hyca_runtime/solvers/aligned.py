r"""Trajectory alignment (DiCache, arXiv 2508.17356): the probe says how far along its own history the network is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from hyca_runtime.solvers.base import ClosedFormSolver, register


@register
@dataclass(frozen=True)
class Aligned(ClosedFormSolver):
    r"""On the line through the two newest features, as far as the probe is on the line through its own.

    With features :math:`F_0, F_1` and probes :math:`q_0, q_1`, newest first, and the live probe :math:`q`

    .. math:: \hat F = F_1 + \gamma (F_0 - F_1), \quad
        \gamma = \mathrm{clip}(|q - q_1|_1 / |q_0 - q_1|_1,\ 1,\ \mathrm{limit}),

    one :math:`\gamma` for each sample (the release has one for the batch). Without a probe it is reuse.

    Args:
        limit: 1.5 as released for FLUX and HunyuanVideo, 2 for Wan.
    """

    limit: float = 1.5
    name: ClassVar[str] = "aligned"
    depth: ClassVar[int] = 2

    def __post_init__(self) -> None:
        if not self.limit >= 1:
            raise ValueError(f"aligned: limit must be 1 or more, got {self.limit}")

    def weights(self, times: np.ndarray, target: float) -> np.ndarray:
        del target
        return np.asarray(np.eye(len(times))[0])

    def probed(self, live: Tensor, newest: Tensor, older: Tensor) -> Tensor:
        """Weights ``(2, sample)``, newest first, from probes ``(sample, ...)``; nothing waits for the device."""
        here, there = (_apart(probe, older) for probe in (live, newest))
        gamma = (here / there.clamp_min(torch.finfo(there.dtype).tiny)).clamp(1.0, self.limit)
        return torch.stack([gamma, 1 - gamma])


def _apart(a: Tensor, b: Tensor) -> Tensor:
    return (a.float() - b.float()).abs().flatten(1).mean(1)
