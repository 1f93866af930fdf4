"""What DiCache decides by and forecasts with: its settings, as parts of a plan."""

from dataclasses import dataclass, replace

from hyca_runtime.forecast import Forecast
from hyca_runtime.group import DimensionGroup, encode_channels
from hyca_runtime.point import parse_point
from hyca_runtime.policies import ProbedChange
from hyca_runtime.schedule import EVERY
from hyca_runtime.solvers import Aligned

STACK = "stack"
POINT = parse_point("trunk:residual")
"""What the paper keeps: the tokens behind the last block less those before the first."""


@dataclass(frozen=True)
class Rule:
    """The settings of DiCache, but the threshold.

    Attributes:
        blocks: m, how many blocks are the probe.
        retained: rho, the share of the run that is computed at its start.
        last: whether the last step is computed.
        limit: largest gamma of the alignment; 1 is reuse.
    """

    blocks: int = 1
    retained: float = 0.2
    last: bool = False
    limit: float = 1.5

    def policy(self, threshold: float) -> ProbedChange:
        """The policy with a threshold."""
        return ProbedChange(threshold, self.blocks, self.retained, self.last)

    def forecast(self, channels: int, numel: int | None = None) -> Forecast:
        """What is forecast, of so many channels and numbers, and how."""
        solver = Aligned(self.limit).spec()
        everything = DimensionGroup(name="all", channels=encode_channels(range(channels)), solver=solver)
        return Forecast(at=POINT, num_channels=channels, groups={EVERY: (everything,)}, numel=numel)


def rule_of(transformer: str) -> Rule:
    """The settings of the release for a class of networks, or those of HunyuanVideo."""
    released = {"FluxTransformer2DModel": Rule(last=True), "WanTransformer3DModel": Rule(limit=2.0)}
    return released.get(transformer, Rule())


def less_retained(rule: Rule) -> tuple[Rule, ...]:
    """The rule, then with ever fewer steps computed at the start: for budgets that leave no room for them."""
    return (rule, *(replace(rule, retained=share) for share in (0.1, 0.05, 0.0) if share < rule.retained))
