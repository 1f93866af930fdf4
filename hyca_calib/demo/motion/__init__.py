"""``--model demo-video``: a small Wan that shows moving emoji, trained by `studies.training.motion.train`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

__all__ = ["WEIGHTS", "prompts"]

WEIGHTS = Path(__file__).parent / "weights"


def prompts() -> tuple[dict[str, Any], ...]:
    """Every caption, those held out from training included."""
    facts = json.loads((WEIGHTS / "training.json").read_text())
    return tuple({"prompt": caption} for caption in sorted(facts["trained_captions"] + facts["held_out_captions"]))
