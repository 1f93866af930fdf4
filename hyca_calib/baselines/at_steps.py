"""Caches with a fixed schedule, told to compute given steps, or as many: to compare their time, not their pictures."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from functools import partial

from hyca_calib.baselines.base import Baseline
from hyca_calib.baselines.cache_dit import masked
from hyca_calib.baselines.caches import taylorseer_family

__all__ = ["baselines_at_steps"]


def baselines_at_steps(num_steps: int, computed: Sequence[int]) -> list[Baseline]:
    """diffusers' TaylorSeer at the interval that computes about as many, and cache-dit at those very steps."""
    interval = max(2, round(num_steps / len(computed)))
    family = taylorseer_family(num_steps)
    found = [family.baseline({"way": way, "N": interval, "O": 1, "W": 1}) for way in ("lite", "last block")]
    if importlib.util.find_spec("cache_dit") is not None:
        mask = [int(step in computed) for step in range(num_steps)]
        for name, calibrator in (("DBCache", ""), ("DBCache + TaylorSeer", " + TaylorSeer")):
            applied = partial(masked, num_steps=num_steps, calibrator=calibrator, mask=mask)
            found.append(Baseline(f"{name}, the same steps", name, num_steps, applied))
    return found
