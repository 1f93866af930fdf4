"""What a user would pick instead, as context managers over the same pipeline.

Fewer steps, better samplers, the caches of diffusers, FORA and SmoothCache, and cache-dit if it is installed. Every
method is a family of settings, spacings of the noise levels and reasonable adaptations included; comparisons are with
the best of them.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator, Sequence
from typing import Any

from hyca_calib.peers.base import Axis, Family, Peer, Settings, Setup
from hyca_calib.peers.broadcast import faster_family, pyramid_family, sea_family
from hyca_calib.peers.caches import first_block_family, magnitude_family, taylorseer_family
from hyca_calib.peers.dual_block import dual_block_families
from hyca_calib.peers.layer_reuse import fora_family, smooth_family
from hyca_calib.peers.samplers import sampler_families
from hyca_calib.workload import Job

__all__ = ["Axis", "Family", "Peer", "Settings", "Setup", "families", "peers"]

PLANNED = ("spectrum", "speca", "learned_linear", "budcache", "cem", "meancache", "recipes")
"""Modules of methods that forecast or plan, each with a function ``NAME_family`` or ``NAME_families``."""


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
        *_planned(pipe, setup),
    ]


def _planned(pipe: Any, setup: Setup) -> Iterator[Family]:
    for name in PLANNED:
        if importlib.util.find_spec(f"{__name__}.{name}") is None:
            continue
        module = importlib.import_module(f"{__name__}.{name}")
        for made in ("family", "families"):
            make = getattr(module, f"{name}_{made}", None)
            if make is not None:
                found = make(pipe, setup)
                yield from found if made == "families" else [found]


def peers(pipe: Any, jobs: Sequence[Job], num_steps: int) -> list[Peer]:
    """Settings of every method that are tried at once."""

    def unknown() -> Any:
        raise LookupError("no trace was given: use `families` with a Setup that has one")

    setup = Setup(jobs, num_steps, lambda name, make: make(), unknown)
    return [family.peer(settings) for family in families(pipe, setup) for settings in family.first()]
