"""``--model demo-class``: a small DiT that draws capital letters and digits, trained by `.train`."""

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
    import torch
    from diffusers import DDIMScheduler, DiTTransformer2DModel

    from hyca_calib.demo.glyphs.pipeline import GlyphPipeline

    options = {"torch_dtype": torch.float32, "local_files_only": True, "low_cpu_mem_usage": False}
    return GlyphPipeline(
        transformer=DiTTransformer2DModel.from_pretrained(folder / "transformer", **options),
        scheduler=DDIMScheduler.from_pretrained(folder / "scheduler"),
        classes=json.loads((folder / "model_index.json").read_text())["classes"],
    )


def prompts(folder: Path = WEIGHTS) -> tuple[dict[str, Any], ...]:
    """Every class."""
    classes = json.loads((folder / "model_index.json").read_text())["classes"]
    return tuple({"class_labels": label} for label in classes)
