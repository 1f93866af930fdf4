"""The published recipes of HyCa, FoCa and HiCache, their intervals and leading steps free, as plans of the runtime.

Nothing is fitted: one sample shows HyCa which channels belong together and which solver each group keeps. The
features are those of the trace that the setup offers, where their papers take every block's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from hyca_calib.baselines.base import Axis, Family, Settings, Setup
from hyca_calib.search.presets import PRESETS, Preset, recipe_section
from hyca_calib.search.replay import Multistep
from hyca_runtime import Plan, apply_plan
from hyca_runtime.session import Session
from hyca_runtime.solvers import Hermite

__all__ = ["RECIPES", "recipe_families"]

RECIPES = {"HyCa as published": "hyca", "FoCa as published": "foca", "HiCache as published": "hicache"}
"""Families and their presets."""

LONGEST, FIRST = 25, (2, 3, 5, 8, 12)
"""Longest interval, and those tried at once; 25 computes two steps of 50."""


def recipe_families(pipe: Any, setup: Setup) -> list[Family]:
    """A family for each recipe."""
    del pipe
    longest = min(LONGEST, setup.num_steps - 1)
    first = tuple(n for n in FIRST if n <= longest)
    shared = (
        Axis("interval", tuple(range(2, longest + 1)), first, closed=True),
        Axis("warmup", tuple(w for w in (1, 2, 3) if w < setup.num_steps), (1,), closed=True),
    )
    both_ways = Axis("multistep", ("anchored", "recursive"), ordered=False)
    contraction = Axis("contraction", (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0), (0.5,), closed=True)
    return [
        Family(
            name,
            PRESETS[preset].source + "; as plans",
            (*shared, contraction if preset == "hicache" else both_ways),
            _applied(PRESETS[preset], setup),
            setup.num_steps,
        )
        for name, preset in RECIPES.items()
    ]


def _applied(preset: Preset, setup: Setup) -> Callable[[Any, Settings], Any]:
    @contextmanager
    def apply(pipe: Any, settings: Settings) -> Iterator[Session]:
        multistep: Multistep = "recursive" if settings.get("multistep") == "recursive" else "anchored"
        recipe = preset
        if "contraction" in settings:
            recipe = replace(preset, pool=(Hermite(1, sigma=float(settings["contraction"])),))
        interval, warmup = int(settings["interval"]), int(settings["warmup"])

        def planned() -> str:
            section = recipe_section(setup.problem(), recipe, interval, warmup, 0, multistep)
            return Plan(name="recipe", sections=(section,)).model_dump_json()

        named = ", ".join(f"{name} {value}" for name, value in settings.items())
        plan = Plan.model_validate_json(setup.recall(f"plan of {preset.source}, {named}", planned))
        with apply_plan(pipe, plan, "error") as session:
            yield session

    return apply
