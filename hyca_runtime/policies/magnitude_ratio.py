"""Computing when the magnitude of what blocks add should have drifted enough (MagCache, arXiv 2506.09045)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from hyca_runtime.moment import Moment
from hyca_runtime.policies.base import Evidence, Policy, register_policy
from hyca_runtime.schedule import COMPUTE, EVERY, Action, Schedule


class Drift(NamedTuple):
    """What is told of the calls since the network was last computed.

    Attributes:
        ratio: of magnitudes, of the latest call's over the computed one's.
        error: summed over the calls.
    """

    calls: int = 0
    ratio: float = 1.0
    error: float = 0.0


@register_policy
@dataclass(frozen=True)
class MagnitudeRatio(Policy):
    r"""Sums how far the magnitude of a reused residual is off, and computes once that exceeds `threshold`.

    With the ratios :math:`\gamma_t` of magnitudes from step to step, after a computed step s

    .. math:: \sum_{t > s} \Bigl| 1 - \prod_{s < i \le t} \gamma_i \Bigr| > \text{threshold}.

    Nothing of the run is looked at. Under a sampler with other steps a call has the ratio of the plan's nearest step,
    to the power of how far it is from the call before, in steps of the plan.

    References: Ma et al. (2025), MagCache, arXiv 2506.09045, section 3.3.

    Args:
        threshold: delta of the paper; with 0 every step is computed.
        ratios: by guidance branch, or `EVERY`, for each step of the plan; that of the first is not read.
        consecutive: most calls in a row that are not computed; K of the paper.
        retained: share of the run, from its start, that is computed.
    """

    threshold: float
    ratios: Mapping[str, Sequence[float]]
    consecutive: int = 3
    retained: float = 0.2
    name: ClassVar[str] = "magnitude_ratio"

    def __post_init__(self) -> None:
        object.__setattr__(self, "ratios", {branch: tuple(of) for branch, of in self.ratios.items()})
        if not self.threshold >= 0:
            raise ValueError(f"magnitude_ratio: threshold must be 0 or more, got {self.threshold}")
        if EVERY not in self.ratios or not all(self.ratios.values()):
            raise ValueError(f"magnitude_ratio: expected ratios for {EVERY!r}, the branches that are not named")
        if not all(ratio > 0 for of in self.ratios.values() for ratio in of):
            raise ValueError("magnitude_ratio: ratios must be above 0")
        if type(self.consecutive) is not int or self.consecutive < 1:
            raise ValueError(f"magnitude_ratio: consecutive must be a whole number, 1 or more, got {self.consecutive}")
        if not 0 <= self.retained <= 1:
            raise ValueError(f"magnitude_ratio: retained must be a share from 0 to 1, got {self.retained}")

    def begin(self) -> Drift:
        return Drift()

    def decide(self, state: Any, moment: Moment, schedule: Schedule, evidence: Evidence = None) -> tuple[Action, Any]:
        del evidence
        if moment.previous < 0 or moment.position < int(self.retained * moment.num_steps + 0.5):
            return COMPUTE, Drift()
        calls, ratio = state.calls + 1, state.ratio * self._ratio(moment)
        error = state.error + abs(1 - ratio)
        if 0 < self.threshold >= error and calls <= self.consecutive:
            return self.forecasts(schedule), Drift(calls, ratio, error)
        return COMPUTE, Drift()

    def _ratio(self, moment: Moment) -> float:
        """From the call before to this one."""
        ratios = self.ratios.get(moment.branch, self.ratios[EVERY])
        nearest = ratios[min(round(moment.position), len(ratios) - 1)]
        return float(nearest ** (moment.position - moment.previous))
