"""Small guided pipelines, and statistics of smooth trajectories."""

from __future__ import annotations

from typing import Any

import numpy as np
import tiny

STEPS = 12
PROMPTS = ("red cat", "blue dog", "green star", "red heart")
KINDS: dict[str, tuple[Any, tuple[dict[str, Any], ...]]] = {
    "two calls": (tiny.pipeline, tuple({"prompt": text, "true_cfg_scale": 3.0} for text in PROMPTS)),
    "one call": (tiny.glyphs, tuple({"class_labels": label, "guidance_scale": 2.0} for label in range(4))),
}


def smooth(steps: int, groups: int, points: int) -> tuple[np.ndarray, np.ndarray]:
    """Gram matrices of smooth random trajectories at points that resemble each other, and their times."""
    rng, times = np.random.default_rng(3), np.linspace(1, 1 / steps, steps)
    waves = np.stack([np.cos(k * np.pi * times) for k in range(6)])
    size = 0.5 ** np.arange(6)
    trunk = rng.normal(size=(groups, 50, 6))
    parts = [(0.7**p * trunk + 0.3 * p * rng.normal(size=trunk.shape)) * size @ waves for p in range(points)]
    joint = np.concatenate(parts, axis=2)
    return joint.transpose(0, 2, 1) @ joint, times
