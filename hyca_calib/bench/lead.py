"""How far a plan is ahead of the best baseline."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hyca_calib.bench.choice import SPARING
from hyca_calib.bench.figures import Figures
from hyca_calib.bench.results import Row
from hyca_calib.costs.same_cost import MORE, SAME_COST
from hyca_calib.quality.metrics import interval


@dataclass(frozen=True)
class Lead:
    """Agreement in dB above the best baseline, sample by sample: mean and 95 % interval, prompts resampled."""

    mean: float
    low: float
    high: float
    baseline: str
    baseline_ratio: float
    baseline_db: float


def lead(ours: Figures, rows: Sequence[Row], groups: Sequence[int] | None, most: float = math.inf) -> Lead | None:
    """How far a plan is above the best baseline that spends at least as many FLOPs; None without one.

    A baseline that spends up to 2 % less counts too, so that equal numbers of computed steps are compared; one that
    spares next to nothing does not. The best is that of the test split, which favours the baseline.

    Args:
        most: FLOPs of a baseline, over the plan's.
    """
    about = ours.flops_ratio / MORE
    least = max(min(SPARING, about), ours.flops_ratio / most, SAME_COST)
    baselines = [
        (row.result, row.method)
        for row in rows
        if row.result and not row.ours and least <= row.result.flops_ratio <= ours.flops_ratio * SAME_COST
    ]
    if not baselines:
        return None
    best, name = max(baselines, key=lambda pair: pair[0].agreement_db)
    paired = np.subtract(ours.agreement_db_each, best.agreement_db_each).tolist()
    return Lead(*interval(paired, groups=groups), name, best.flops_ratio, best.agreement_db)
