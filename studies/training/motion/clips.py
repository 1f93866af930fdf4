"""Training data of the video model: real emoji that move, turn, grow, fade and collide on backgrounds.

A caption names the object, what it does and where: ``"red heart moving left on sand"``,
``"crab and rocket colliding on sky"``.
"""

import itertools
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

FRAMES, SIZE = 16, 32
SHARPER = 3
"""Clips are drawn so many times larger, then averaged."""
OBJECT_SIZE = 15.0
"""Pixels of the longer side of an object."""

OBJECTS = (
    "red heart", "blue heart", "green heart", "grinning face", "sleeping face", "clown face", "alien", "skull",
    "crab", "octopus", "frog", "tiger face", "panda", "fox", "rocket", "automobile", "red apple", "tangerine",
    "watermelon", "hamburger", "soccer ball", "basketball", "glowing star", "sun",
)  # fmt: skip
BACKGROUNDS = {
    "snow": ((255, 255, 255), (226, 232, 240)),
    "sky": ((120, 190, 250), (220, 240, 255)),
    "grass": ((190, 235, 150), (90, 175, 80)),
    "night": ((12, 16, 48), (48, 44, 100)),
}
"""Name, colours at the top and at the bottom."""
COLLIDING = "colliding"
PAIRS = 160


@dataclass(frozen=True)
class Pose:
    """Where an object is: centre in pixels, size as a factor, degrees against the clock, opacity."""

    x: float = SIZE / 2
    y: float = SIZE / 2
    scale: float = 1.0
    angle: float = 0.0
    opacity: float = 1.0


Motion = Callable[[float, float], Pose]
"""The pose at a time from 0 to 1, given an offset in pixels by which clips of one caption differ."""

NEAR, FAR = 8.0, SIZE - 8.0
MOTIONS: dict[str, Motion] = {
    "moving left": lambda u, o: Pose(x=FAR + (NEAR - FAR) * u, y=SIZE / 2 + o),
    "moving right": lambda u, o: Pose(x=NEAR + (FAR - NEAR) * u, y=SIZE / 2 + o),
    "rising": lambda u, o: Pose(x=SIZE / 2 + o, y=FAR + (NEAR - FAR) * u),
    "falling": lambda u, o: Pose(x=SIZE / 2 + o, y=NEAR + (FAR - NEAR) * u * u),
    "bouncing": lambda u, o: Pose(x=SIZE / 2 + o, y=FAR - (FAR - NEAR) * abs(math.sin(2 * math.pi * u))),
    "turning": lambda u, o: Pose(x=SIZE / 2 + o, angle=-360 * u),
    "growing": lambda u, o: Pose(x=SIZE / 2 + o, scale=0.4 + 1.2 * u),
    "shrinking": lambda u, o: Pose(x=SIZE / 2 + o, scale=1.6 - 1.2 * u),
    "fading": lambda u, o: Pose(x=SIZE / 2 + o, opacity=1 - u),
}


@dataclass(frozen=True)
class Scene:
    """One object and its motion, or two that collide."""

    objects: tuple[str, ...]
    motion: str
    background: str

    @property
    def caption(self) -> str:
        return f"{' and '.join(self.objects)} {self.motion} on {self.background}"

    def poses(self, u: float, offset: float) -> list[Pose]:
        """The pose of each object at a time from 0 to 1."""
        if self.motion != COLLIDING:
            return [MOTIONS[self.motion](u, offset)]
        apart = OBJECT_SIZE / 2 + 9 * abs(1 - 2 * u)  # they meet in the middle of the clip, and go back
        return [Pose(x=SIZE / 2 + side * apart, y=SIZE / 2 + offset, scale=0.9) for side in (-1, 1)]


def scenes(seed: int = 0) -> list[Scene]:
    """Every object in every motion on every background, and some pairs that collide; sorted by caption."""
    found = [
        Scene((name,), motion, ground) for name, motion, ground in itertools.product(OBJECTS, MOTIONS, BACKGROUNDS)
    ]
    pairs = list(itertools.permutations(OBJECTS, 2))
    picked = random.Random(seed).sample(pairs, PAIRS)
    grounds = itertools.cycle(BACKGROUNDS)
    found += [Scene(pair, COLLIDING, next(grounds)) for pair in picked]
    return sorted(found, key=lambda scene: scene.caption)


def render(scene: Scene, glyphs: dict[str, Image.Image], offset: float = 0.0) -> NDArray[np.uint8]:
    """The clip ``(frame, height, width, 3)``."""
    return render_at(scene, glyphs, [i / (FRAMES - 1) for i in range(FRAMES)], offset)


def render_at(
    scene: Scene, glyphs: dict[str, Image.Image], times: Sequence[float], offset: float = 0.0
) -> NDArray[np.uint8]:
    """A frame ``(height, width, 3)`` for each time from 0 to 1."""
    frames = [_frame(scene, glyphs, u, offset) for u in times]
    return np.stack([np.asarray(frame.resize((SIZE, SIZE), Image.Resampling.BOX)) for frame in frames])


def _frame(scene: Scene, glyphs: dict[str, Image.Image], u: float, offset: float) -> Image.Image:
    canvas = _ground(scene.background)
    for name, pose in zip(scene.objects, scene.poses(u, offset), strict=True):
        sprite = _posed(glyphs[name], pose)
        corner = [round(SHARPER * c - side / 2) for c, side in zip((pose.x, pose.y), sprite.size, strict=True)]
        canvas.paste(sprite, (corner[0], corner[1]), sprite)
    return canvas


def _posed(glyph: Image.Image, pose: Pose) -> Image.Image:
    factor = SHARPER * OBJECT_SIZE * pose.scale / max(glyph.size)
    size = [max(1, round(side * factor)) for side in glyph.size]
    sprite = glyph.resize((size[0], size[1]), Image.Resampling.LANCZOS)
    if pose.angle:
        sprite = sprite.rotate(pose.angle, Image.Resampling.BICUBIC, expand=True)
    if pose.opacity < 1:
        sprite.putalpha(sprite.getchannel("A").point(lambda alpha: round(alpha * pose.opacity)))
    return sprite


def _ground(name: str) -> Image.Image:
    top, bottom = (np.array(colour, dtype=np.float64) for colour in BACKGROUNDS[name])
    side = SHARPER * SIZE
    share = np.linspace(0, 1, side)[:, None, None]
    colours = np.broadcast_to(top + (bottom - top) * share, (side, side, 3))
    return Image.fromarray(colours.round().astype(np.uint8))
