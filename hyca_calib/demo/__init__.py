"""The embedded models: small diffusion transformers, trained here, that need no download.

Each is a package with its data, pipeline, training script, card and weights.
"""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["DEMOS", "demo_pipeline", "demo_prompts"]

DEMOS = {"demo": "emoji", "demo-class": "glyphs", "demo-video": "motion"}
"""Names for ``--model`` and their packages: emoji from words (FLUX), letters and digits by class (DiT), moving emoji
(Wan)."""


def demo_pipeline(name: str = "demo") -> Any:
    """The trained pipeline, in float32 on the CPU."""
    return importlib.import_module(f"{__name__}.{DEMOS[name]}").load()


def demo_prompts(name: str = "demo") -> tuple[dict[str, Any], ...]:
    """Arguments of the pipeline's call, one for every name or class it knows."""
    calls: tuple[dict[str, Any], ...] = importlib.import_module(f"{__name__}.{DEMOS[name]}").prompts()
    return calls
