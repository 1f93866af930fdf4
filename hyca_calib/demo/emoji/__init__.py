"""``--model demo``: a small FLUX that draws emoji, trained by `studies.training.emoji.train`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

__all__ = ["WEIGHTS", "prompts"]

WEIGHTS = Path(__file__).parent / "weights"


def prompts() -> tuple[dict[str, Any], ...]:
    """Every emoji name, those held out from training included."""
    facts = json.loads((WEIGHTS / "training.json").read_text())
    return tuple({"prompt": name} for name in sorted(facts["trained_names"] + facts["held_out_names"]))
