"""``--model demo-video``: a small Wan that shows moving emoji, trained by `studies.training.motion.train`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hyca_calib.demo.motion.pipeline import MotionPipeline

__all__ = ["WEIGHTS", "load", "prompts"]

WEIGHTS = Path(__file__).parent / "weights"


def load(folder: Path = WEIGHTS) -> MotionPipeline:
    """The pipeline in `folder`, in float32 on the CPU."""
    from hyca_calib.demo.motion.pipeline import MotionPipeline

    return MotionPipeline.from_weights(folder)


def prompts(folder: Path = WEIGHTS) -> tuple[dict[str, Any], ...]:
    """Every caption, those held out from training included."""
    facts = json.loads((folder / "training.json").read_text())
    return tuple({"prompt": caption} for caption in sorted(facts["trained_captions"] + facts["held_out_captions"]))
