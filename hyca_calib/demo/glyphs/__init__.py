"""``--model demo-class``: a small DiT of capital letters and digits, trained by `studies.training.glyphs.train`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

__all__ = ["WEIGHTS", "prompts"]

WEIGHTS = Path(__file__).parent / "weights"


def prompts() -> tuple[dict[str, Any], ...]:
    """Every class the model draws."""
    classes = json.loads((WEIGHTS / "model_index.json").read_text())["classes"]
    return tuple({"class_labels": label} for label in classes)
