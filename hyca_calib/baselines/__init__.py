"""What a user would pick instead, as context managers over the same pipeline.

Fewer steps, better samplers, the caches of diffusers and cache-dit, FORA and SmoothCache, and methods that forecast or
plan under a budget, from their papers. Every method is a family of settings, spacings of the noise levels and
reasonable adaptations included; comparisons are with the best of them.
"""

from __future__ import annotations

from typing import Any

from hyca_calib.baselines.base import Axis, Baseline, Family, Settings, Setup
from hyca_calib.baselines.broadcast import faster_family, pyramid_family
from hyca_calib.baselines.budcache import budcache_family
from hyca_calib.baselines.cache_dit import dual_block_families
from hyca_calib.baselines.caches import first_block_family, magnitude_family, sea_family, taylorseer_family
from hyca_calib.baselines.cem import cem_family
from hyca_calib.baselines.layer_reuse import fora_family, smooth_family
from hyca_calib.baselines.learned_linear import l2p_family
from hyca_calib.baselines.meancache import meancache_family
from hyca_calib.baselines.recipes import recipe_families
from hyca_calib.baselines.samplers import sampler_families
from hyca_calib.baselines.speca import speca_family
from hyca_calib.baselines.spectrum import spectrum_family

__all__ = ["Axis", "Baseline", "Family", "Settings", "Setup", "families"]


def families(pipe: Any, setup: Setup) -> list[Family]:
    """Every method against a full run; those that this network cannot have say why."""
    return [
        *sampler_families(pipe, setup),
        taylorseer_family(setup.num_steps),
        first_block_family(setup.num_steps),
        magnitude_family(setup),
        sea_family(pipe, setup),
        pyramid_family(pipe, setup),
        faster_family(pipe, setup),
        fora_family(setup.num_steps),
        smooth_family(setup),
        *dual_block_families(pipe, setup),
        spectrum_family(pipe, setup),
        speca_family(pipe, setup),
        l2p_family(pipe, setup),
        budcache_family(setup),
        cem_family(setup),
        meancache_family(pipe, setup),
        *recipe_families(setup),
    ]
