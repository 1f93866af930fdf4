"""``--model demo``: a small FLUX that draws emoji, trained by `studies.training.emoji.train`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hyca_calib.demo.emoji.pipeline import EmojiPipeline

__all__ = ["WEIGHTS", "load", "prompts"]

WEIGHTS = Path(__file__).parent / "weights"


def load(folder: Path = WEIGHTS) -> EmojiPipeline:
    """The pipeline in `folder`, in float32 on the CPU."""
    from hyca_calib.demo.emoji.pipeline import EmojiPipeline

    return EmojiPipeline.from_weights(folder)


def prompts(folder: Path = WEIGHTS) -> tuple[dict[str, Any], ...]:
    """Every emoji name, those held out from training included."""
    facts = json.loads((folder / "training.json").read_text())
    return tuple({"prompt": name} for name in sorted(facts["trained_names"] + facts["held_out_names"]))
