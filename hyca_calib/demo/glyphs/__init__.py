"""``--model demo-class``: a small DiT of capital letters and digits, trained by `studies.training.glyphs.train`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hyca_calib.demo.glyphs.pipeline import GlyphPipeline

__all__ = ["WEIGHTS", "load", "prompts"]

WEIGHTS = Path(__file__).parent / "weights"


def load(folder: Path = WEIGHTS) -> GlyphPipeline:
    """The pipeline in `folder`, in float32 on the CPU."""
    from hyca_calib.demo.glyphs.pipeline import GlyphPipeline

    return GlyphPipeline.from_weights(folder)


def prompts(folder: Path = WEIGHTS) -> tuple[dict[str, Any], ...]:
    """Every class."""
    classes = json.loads((folder / "model_index.json").read_text())["classes"]
    return tuple({"class_labels": label} for label in classes)
