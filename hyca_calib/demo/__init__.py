"""The embedded models: small diffusion transformers, trained here, that need no download.

Each is a package with its pipeline, weights and their card; `studies.training` has its data and training.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hyca_calib.demo.sampling import DemoPipeline

__all__ = ["DEMOS", "demo_pipeline", "demo_prompts"]

DEMOS = {"demo": "emoji", "demo-class": "glyphs", "demo-video": "motion"}
"""Names for ``--model`` and their packages: emoji from words (FLUX), letters and digits by class (DiT), moving emoji
(Wan)."""


def demo_pipeline(name: str = "demo") -> DemoPipeline:
    """The trained pipeline, in float32 on the CPU."""
    pipe: DemoPipeline = importlib.import_module(f"{__name__}.{DEMOS[name]}").load()
    return pipe


def demo_prompts(name: str = "demo") -> tuple[dict[str, Any], ...]:
    """Arguments of the pipeline's call, one for every name or class it knows."""
    calls: tuple[dict[str, Any], ...] = importlib.import_module(f"{__name__}.{DEMOS[name]}").prompts()
    return calls
