"""Computing when the output should have changed enough, by a polynomial of the input's change (TeaCache)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from hyca_runtime.moment import Moment
from hyca_runtime.policies.accumulated_change import AccumulatedChange
from hyca_runtime.policies.base import register_policy


@register_policy
@dataclass(frozen=True)
class RescaledChange(AccumulatedChange):
    r"""Sums what a polynomial makes of the probe's relative change, and computes once it reaches `threshold`.

    .. math:: \sum_t \max(0, p(\min(\max(x_t, a), b))) \ge \text{threshold}

    with the change :math:`x_t` from call to call, the polynomial p, and the range [a, b] in which it was fitted: a
    polynomial says nothing of what lies outside. The first and the last step compute.

    References: Liu et al. (2024), TeaCache, arXiv 2411.19108, section 3.3.

    Args:
        coefficients: of p, highest power first.
        within: a and b.
        blocks: how many blocks are the probe.
    """

    threshold: float
    coefficients: tuple[float, ...]
    within: tuple[float, float] = (0.0, 1e9)
    blocks: int = 1
    name: ClassVar[str] = "rescaled_change"

    def __post_init__(self) -> None:
        self._check_probe(self.threshold)
        for field, values in (("coefficients", tuple(self.coefficients)), ("within", tuple(self.within))):
            object.__setattr__(self, field, values)
        if not self.coefficients:
            raise ValueError("rescaled_change: expected coefficients, highest power first, got none")
        if len(self.within) != 2 or not 0 <= self.within[0] <= self.within[1]:
            raise ValueError(f"rescaled_change: within must be the two ends of a range, got {list(self.within)}")

    def change(self, measured: float) -> float:
        low, high = self.within
        at, value = min(max(measured, low), high), 0.0  # one that is not a number stays so
        for coefficient in self.coefficients:
            value = value * at + coefficient
        return max(value, 0.0)

    def forces(self, moment: Moment, skipped: int) -> bool:
        del skipped
        return moment.position >= moment.num_steps - 1
