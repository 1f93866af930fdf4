"""The published recipes of HyCa, FoCa and HiCache, their intervals and leading steps free, as plans of the runtime.

Nothing is fitted: one sample shows HyCa which channels belong together and which solver each group keeps. The
features are those of the trace that the setup offers, where their papers take every block's.
"""

import json
from dataclasses import replace
from typing import Any

from hyca_calib.baselines.base import Applied, Axis, Family, Settings, Setup
from hyca_calib.pipelines.rollout import followed
from hyca_calib.search.presets import PRESETS, recipe_section
from hyca_calib.search.replay import Multistep
from hyca_runtime import Plan
from hyca_runtime.plan import parse_plan
from hyca_runtime.solvers import Hermite

RECIPES = {"HyCa as published": "hyca", "FoCa as published": "foca", "HiCache as published": "hicache"}
"""Families and their presets."""

LONGEST, FIRST = 25, (2, 3, 5, 8, 12)
"""Longest interval, and those tried at once; 25 computes two steps of 50."""


def recipe_families(setup: Setup) -> list[Family]:
    """A family for each recipe."""
    return [_family(name, preset, setup) for name, preset in RECIPES.items()]


def _family(name: str, preset: str, setup: Setup) -> Family:
    published, num = PRESETS[preset], setup.num_steps

    def apply(pipe: Any, settings: Settings) -> Applied:
        multistep: Multistep = "recursive" if settings.get("multistep") == "recursive" else "anchored"
        recipe = published
        if "contraction" in settings:
            recipe = replace(recipe, pool=(Hermite(1, sigma=float(settings["contraction"])),))
        interval, warmup = int(settings["interval"]), int(settings["warmup"])

        def planned() -> str:
            section = recipe_section(setup.problem(), recipe, interval, warmup, 0, multistep)
            return Plan(name="recipe", sections=(section,)).model_dump_json()

        named = ", ".join(f"{axis} {value}" for axis, value in settings.items())
        kept = setup.recall(f"plan of {published.source}, {named}", planned)  # perhaps of an older version
        return followed(pipe, parse_plan(json.loads(kept), "recipe"))

    longest = min(LONGEST, num - 1)
    both_ways = Axis("multistep", ("anchored", "recursive"), ordered=False)
    contraction = Axis("contraction", (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0), (0.5,), closed=True)
    axes = (
        Axis("interval", tuple(range(2, longest + 1)), tuple(n for n in FIRST if n <= longest), closed=True),
        Axis("warmup", tuple(w for w in (1, 2, 3) if w < num), (1,), closed=True),
        contraction if preset == "hicache" else both_ways,
    )
    return Family(name, published.source + "; as plans", axes, apply, num)
