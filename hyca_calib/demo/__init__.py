"""The embedded models: small diffusion transformers, trained here, that need no download.

Each is a package with its pipeline, weights and their card; `studies.training` has its data and training.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hyca_calib.demo.sampling import DemoPipeline

__all__ = ["DEMOS", "demo_pipeline", "demo_prompts"]

DEMOS = {
    "demo": ("emoji", "EmojiPipeline"),
    "demo-class": ("glyphs", "GlyphPipeline"),
    "demo-video": ("motion", "MotionPipeline"),
}
"""Names for ``--model``, their packages and classes: emoji from words (FLUX), letters and digits by class (DiT), moving
emoji (Wan)."""


def demo_pipeline(name: str = "demo") -> DemoPipeline:
    """The trained pipeline, in float32 on the CPU."""
    package, kind = DEMOS[name]
    home = f"{__name__}.{package}"
    pipe: DemoPipeline = getattr(import_module(f"{home}.pipeline"), kind).from_weights(import_module(home).WEIGHTS)
    return pipe


def demo_prompts(name: str = "demo") -> tuple[dict[str, Any], ...]:
    """Arguments of the pipeline's call, one for every name or class it knows."""
    calls: tuple[dict[str, Any], ...] = import_module(f"{__name__}.{DEMOS[name][0]}").prompts()
    return calls
