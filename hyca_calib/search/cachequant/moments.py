r"""What two tensors have in common in each channel on each step, and the affine map from one to the other.

.. math:: a = \frac{\mathrm{Cov}(x, y)}{\mathrm{Var}(x)}, \qquad b = \bar y - a\, \bar x

leaves the least squared error of :math:`y \approx a x + b`; covariance and variance are of the same numbers, so that on
these the error is never larger than with a = 1 and b = 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from hyca_calib.search.replay import Array

CONSTANT = 1e-12
"""Share of its mean square that the variance of a channel has at least which is not taken for a constant."""


@dataclass(frozen=True)
class Moments:
    """Sums over numbers x and y.

    Attributes:
        sums: of 1, x, y, x x, x y and y y, ``(6, step, channel)``.
    """

    sums: Array

    def affine(self) -> Array:
        """``(step, 2, channel)``: the scale of x and the constant; 1 and 0 on steps without numbers."""
        n, x, y, xx, xy, _ = self.sums
        varies = n * xx - x**2
        alive = varies > CONSTANT * n * xx
        scale = np.divide(n * xy - x * y, varies, out=np.ones_like(x), where=alive)
        shift = np.divide(y - scale * x, n, out=np.zeros_like(x), where=n > 0)
        return np.stack([scale, shift], axis=1)

    def error(self, rows: Array | None = None) -> Array:
        """Squared error under some rows, by default of y = x, ``(step, channel)``."""
        n, x, y, xx, xy, yy = self.sums
        scale, shift = (np.float64(1), np.float64(0)) if rows is None else (rows[:, 0], rows[:, 1])
        square = yy + scale**2 * xx + n * shift**2
        return np.asarray(np.maximum(square - 2 * scale * xy - 2 * shift * y + 2 * scale * shift * x, 0.0))

    def left(self, rows: Array) -> float:
        """What rows leave of the squared error of y = x, as a share of it."""
        return float(self.error(rows).sum() / max(self.error().sum(), np.finfo(float).tiny))


def moments_of(x: Sequence[Tensor], y: Sequence[Tensor], axis: int) -> Array:
    """The sums of one step, ``(6, channel)``: channels of several parts one after another.

    Args:
        axis: that counts channels.
    """
    parts = []
    for a, b in zip(x, y, strict=True):
        one, other = (part.detach().movedim(axis, -1).flatten(0, -2).double() for part in (a, b))
        sums = [one.sum(0), other.sum(0), (one * one).sum(0), (one * other).sum(0), (other * other).sum(0)]
        parts.append(np.stack([np.full(one.shape[1], float(len(one))), *(of.cpu().numpy() for of in sums)]))
    return np.concatenate(parts, axis=1)
