r"""What attention to kept keys and values of the past costs, beside the forwards of single chunks.

A chunk of T tokens that attends to K tokens of the past takes :math:`4\,T K d` FLOPs more in each layer, d the channels
of all heads together: 2 T K d for the products of queries and keys, and as many for the sum of the values. Of a chunk
that is computed on k of S steps, with F FLOPs of its own on each and P where it is forecast, and a mean of a FLOPs of
attention to the past,

.. math:: k\,(F + a) + (S - k)\,P \le \text{share} \cdot S\,(F + a_\text{all}),

where a full run keeps all: what is not attended to leaves room for steps that are computed. The last computation of a
finished chunk, the same for every plan, is not among these.
"""

import json
from dataclasses import dataclass, replace

from hyca_calib.costs.budget import Budget
from hyca_calib.costs.flops import TIMED_TAPS, CostModel
from hyca_runtime.network_plan import NetworkPlan
from hyca_runtime.streaming.retention import RetentionSpec


def told_keys(spec: RetentionSpec) -> str:
    """What is kept, as on a command line: "important budget=2"."""
    told = (f"{label}={json.dumps(value, separators=(',', ':'))}" for label, value in spec.configuration.items())
    return " ".join((spec.name, *told))


@dataclass(frozen=True)
class PastCost:
    """Of what some chunks attend to, as it was counted in a run.

    Attributes:
        flops: a, on a computed step of one chunk of one sample, the mean over the chunks.
        everything: the same over all chunks of a clip, were all kept.
        chunks: the most chunks of tokens that one attends to beside itself.
    """

    flops: float = 0.0
    everything: float = 0.0
    chunks: float = 0.0

    def whole(self, cost: CostModel, num_steps: int) -> float:
        """FLOPs of a chunk in a full run."""
        return num_steps * (cost.full_flops + self.everything)

    def spent(self, section: NetworkPlan, cost: CostModel) -> float:
        """FLOPs of a chunk under a plan; of attention to the past those of its computed steps."""
        alone = section.schedule.num_steps * cost.full_flops / (section.flops_ratio or 1.0)
        return alone + len(section.schedule.computed_steps) * self.flops

    def least(self, cost: CostModel, num_steps: int) -> float:
        """The share of a full run that one computed step takes."""
        return (cost.run_flops(num_steps, 1, TIMED_TAPS) + self.flops) / self.whole(cost, num_steps)

    def within(self, budget: Budget, cost: CostModel, num_steps: int) -> Budget:
        """The budget that leaves as many computed steps where attention to the past costs nothing."""
        if budget.share is None:
            return budget
        light = cost.predicted_flops(TIMED_TAPS)
        spare = budget.share * self.whole(cost, num_steps) - num_steps * light
        computed = spare / (cost.full_flops + self.flops - light)  # not only whole ones
        alone = computed * cost.full_flops + (num_steps - computed) * light
        return replace(budget, share=min(1.0, alone / (num_steps * cost.full_flops)))
