"""How long a whole run of a pipeline takes, by how much of its network it computes."""

from dataclasses import asdict, dataclass
from typing import Any

from hyca_calib.costs.flops import TimedOn


@dataclass(frozen=True)
class RunSeconds:
    """Seconds of a sample, from the prompt to what the pipeline returns, in calls of one size on one machine.

    A plan computes some steps in full and forecasts on the others, so its seconds are a straight line over the share of
    the network's FLOPs that it spends; what hooks, the sampler, encoders and decoders take lies in `fixed`.

    Attributes:
        full: of the full run, without any plan.
        fixed, slope: of a run under a plan, and what the whole network adds to that.
    """

    full: float
    fixed: float
    slope: float
    timed_on: TimedOn

    @classmethod
    def through(
        cls, full: float, runs: tuple[tuple[float, float], tuple[float, float]], timed_on: TimedOn
    ) -> "RunSeconds":
        """The line through two runs, each a share of the network's FLOPs and seconds."""
        (less, shorter), (more, longer) = sorted(runs)
        slope = (longer - shorter) / (more - less)
        return cls(full, shorter - slope * less, slope, timed_on)

    def of(self, share: float) -> float:
        """Seconds under a plan that spends so much of the full run's FLOPs."""
        return self.fixed + self.slope * share

    def share_within(self, seconds: float) -> float:
        """The most FLOPs that a plan may spend, of the full run's; 0 or less where no plan is so fast."""
        return min(1.0, (seconds - self.fixed) / self.slope) if self.slope > 0 else 0.0

    def told(self, share: float) -> dict[str, Any]:
        """What is announced of a plan, for JSON."""
        return {"seconds": self.of(share), "full_seconds": self.full, **asdict(self.timed_on)}
