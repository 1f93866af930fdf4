"""What a user would pick instead, as context managers over the same pipeline.

Fewer steps, better samplers, the caches of diffusers and cache-dit, FORA, SmoothCache and DiCache, and methods that
forecast or plan under a budget, from their papers. Every method is a family of settings, spacings of the noise levels
and reasonable adaptations included; comparisons are with the best of them.
"""

import importlib.util
from collections.abc import Sequence
from functools import partial
from typing import Any

from hyca_calib.baselines.base import Axis, Baseline, Family, Settings, Setup
from hyca_calib.baselines.budcache import budcache_family
from hyca_calib.baselines.cache_dit import DualBlock, by_mask, dual_block_families
from hyca_calib.baselines.caches import diffusers_families, taylorseer_family
from hyca_calib.baselines.cem import cem_family
from hyca_calib.baselines.dicache import dicache_families
from hyca_calib.baselines.layer_reuse import fora_family, smooth_family
from hyca_calib.baselines.learned_linear import l2p_family
from hyca_calib.baselines.meancache import meancache_family
from hyca_calib.baselines.recipes import recipe_families
from hyca_calib.baselines.samplers import sampler_families
from hyca_calib.baselines.speca import speca_family
from hyca_calib.baselines.spectrum import spectrum_family

__all__ = ["Axis", "Baseline", "Family", "Settings", "Setup", "baselines_at_steps", "families"]


def families(pipe: Any, setup: Setup) -> list[Family]:
    """Every method against a full run; those that this network cannot have say why."""
    return [
        *sampler_families(pipe, setup),
        *diffusers_families(pipe, setup),
        fora_family(setup.num_steps),
        smooth_family(setup),
        *dicache_families(pipe, setup),
        *dual_block_families(pipe, setup),
        spectrum_family(pipe, setup),
        speca_family(pipe, setup),
        l2p_family(pipe, setup),
        budcache_family(setup),
        cem_family(setup),
        meancache_family(pipe, setup),
        *recipe_families(setup),
    ]


def baselines_at_steps(num_steps: int, computed: Sequence[int]) -> list[Baseline]:
    """Caches with a fixed schedule, to compare their time, not their pictures.

    diffusers' TaylorSeer at the interval that computes about as many steps, and cache-dit at those very steps.
    """
    interval = max(2, round(num_steps / len(computed)))
    family = taylorseer_family(num_steps)
    found = [family.baseline({"way": way, "N": interval, "O": 1, "W": 1}) for way in ("lite", "last block")]
    mask = by_mask([int(step in computed) for step in range(num_steps)])
    for calibrator in ("", " + TaylorSeer") if importlib.util.find_spec("cache_dit") else ():
        name, cache = f"DBCache{calibrator}", DualBlock(calibrator, num_steps)
        applied = partial(cache.enabled, settings={}, options=mask)
        found.append(Baseline(f"{name}, the same steps", name, num_steps, applied))
    return found
