"""Dynamic mode decomposition with one real mode a group: the rate is read from the features."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from hyca_runtime.solvers.base import AdaptiveSolver, register
from hyca_runtime.solvers.newton import lagrange

BRACKET = 16.0
PARTS = 64
ROUNDS = 5
"""Rates are sought in -16 to 16, in 5 rounds that keep one part of 64: to 3e-8, and every node a dyadic number."""


@register
@dataclass(frozen=True)
class DynamicMode(AdaptiveSolver):
    r"""Exact on :math:`F(t) = a + b\, e^{\lambda t}` with vectors a, b and one rate for each group and sample.

    With gaps :math:`h_1 = t_0 - t_1`, :math:`h_2 = t_1 - t_2` and :math:`d_1 = F_0 - F_1`, :math:`d_2 = F_1 - F_2`,

    .. math:: d_1 = b\, e^{\lambda t_1} (e^{\lambda h_1} - 1), \qquad d_2 = b\, e^{\lambda t_1} (1 - e^{-\lambda h_2}),

    so both are multiples of b and :math:`d_1 = r\, d_2`. Least squares over the tokens and channels of the
    group gives r; the rate per last gap :math:`\mu = \lambda h_1` follows from it, with :math:`q = h_2/h_1`:

    .. math:: r = \frac{\langle d_1, d_2 \rangle}{\langle d_2, d_2 \rangle} = \frac{e^{\mu} - 1}{1 - e^{-q\mu}},
              \qquad \hat F(t) = F_0 + \frac{e^{\omega\mu} - 1}{1 - e^{-\mu}}\, d_1, \qquad
              \omega = \frac{t - t_0}{h_1} .

    With :math:`f(x) = x/(e^x - 1)`, which falls, :math:`\frac{d}{d\mu} \ln r = (f(-\mu) - f(q\mu))/\mu > 0`: r rises
    from 0 to infinity, through 1/q at :math:`\mu = 0`, so every positive r has one rate, which a search of fixed
    length finds. At even gaps :math:`\mu = \ln r`, and one channel alone is Aitken's extrapolation.

    The forecast is continuous in r, with these ends:

    - r falls to 0, :math:`\mu \to -\infty`: the group has relaxed and is held, as it is where r is negative (it
      swings back, which no real mode does) or no number (it did not move, or overflowed);
    - growth is damped: :math:`\mu \max(1, \omega)` is cut at `limit`, so the gain stays below a multiple of that
      of linear extrapolation however large r is;
    - with one or two features, and wherever no features are at hand (plans judged by replay, runs adapted to
      another sampler), it is `Newton` 1, which is also its value at :math:`\mu = 0`.

    Args:
        limit: largest exponent of growth, over the last gap or the way ahead, whichever is longer.

    References: Schmid (2010), dynamic mode decomposition, J. Fluid Mech. 656; Aitken (1926).
    """

    limit: float = 2.0
    name: ClassVar[str] = "dynamic_mode"
    depth: ClassVar[int] = 3
    exact_degree: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if not (math.isfinite(self.limit) and 0 < self.limit <= 10):
            raise ValueError(f"dynamic_mode: limit must be above 0 and at most 10, got {self.limit}")

    def weights(self, times: np.ndarray, target: float) -> np.ndarray:
        steps = -np.diff([target, *times])
        if (steps * steps[-1] < 0).any():
            raise ValueError(f"dynamic_mode: times must all rise or all fall, got {[*times[::-1], target]}")
        row = np.zeros(len(times))
        row[:2] = lagrange(times[:2], target)
        return row

    def learn(self, gram: Tensor, times: np.ndarray) -> Tensor:
        r"""The rate :math:`\mu` of each sample and group, :math:`-\infty` for those to be held."""
        ratio = gram[0, 1] / gram[1, 1]
        older = float((times[1] - times[2]) / (times[0] - times[1]))
        interior = torch.arange(1, PARTS, dtype=ratio.dtype, device=ratio.device)
        low, width = torch.full_like(ratio, -BRACKET), 2 * BRACKET
        for _ in range(ROUNDS):
            width /= PARTS
            below = _growth(low[..., None] + width * interior, 1.0, older) < ratio[..., None]
            low = low + width * below.sum(-1)
        return torch.where((ratio > 0) & (ratio < math.inf), low + width / 2, -math.inf)

    def adapted(self, learnt: Tensor, times: np.ndarray, target: float) -> Tensor:
        ahead = float((target - times[0]) / (times[0] - times[1]))
        gain = _growth(learnt.clamp(max=self.limit / max(1.0, ahead)), ahead, 1.0)
        return torch.stack([1 + gain, -gain, torch.zeros_like(gain)])


def _growth(rate: Tensor, ahead: float, back: float) -> Tensor:
    r""":math:`(e^{\mu\,ahead} - 1)/(1 - e^{-\mu\,back})`: a mode's change ahead over that before."""
    return torch.where(rate == 0, ahead / back, torch.expm1(rate * ahead) / -torch.expm1(-rate * back))
