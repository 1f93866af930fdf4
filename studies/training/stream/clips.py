"""Training data of the streaming model: the scenes of the video model, longer, going on and back again."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from studies.training.motion.clips import Scene, render_at

FRAMES = 48
PERIOD = 32
"""Frames in which a motion goes there and back."""


def times(phase: float = 0.0) -> list[float]:
    """The time of each frame, from 0 to 1 and back, again and again.

    Args:
        phase: where in the period it begins, from 0 to 1.
    """
    places = [(i / PERIOD + phase) % 1 for i in range(FRAMES)]
    return [1 - abs(1 - 2 * place) for place in places]


def render(scene: Scene, glyphs: dict[str, Image.Image], offset: float, phase: float) -> NDArray[np.uint8]:
    """The clip ``(frame, height, width, 3)``."""
    return render_at(scene, glyphs, times(phase), offset)
