"""Training data of the class-conditional demo model: capital letters and digits of Debian's fonts.

Needed only to train again; every Latin font file below `FONTS` is used, so the set depends on which
``fonts-*`` packages are installed. `licences` tells which, for the card.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from fontTools.ttLib import TTFont
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from hyca_calib.demo.glyphs.pipeline import CLASSES

FONTS = Path("/usr/share/fonts")
DRAWN_AT = 96
INK = 0.8  # share of the picture's side that the longer side of a glyph takes


def load_glyphs(size: int, folder: Path = FONTS) -> tuple[np.ndarray, list[str]]:
    """Coverage in [0, 1] of every character in every font, ``(font, class, size, size)``, and the fonts' names.

    Fonts that lack a character, or draw two of them alike, are left out; so are copies of another.
    """
    kept: dict[bytes, tuple[str, np.ndarray]] = {}
    for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in {".ttf", ".otf"}):
        try:
            face = ImageFont.truetype(str(path), DRAWN_AT)
            glyphs = [_render(face, char, size) for char in CLASSES]
        except OSError:
            continue  # a bitmap font that has no such size
        drawn = np.stack([g for g in glyphs if g is not None]) if all(g is not None for g in glyphs) else None
        if drawn is None or len({g.tobytes() for g in drawn}) < len(CLASSES) - 2:
            continue
        kept.setdefault(drawn.tobytes(), (path.stem, drawn))
    if not kept:
        raise FileNotFoundError(f"no Latin font below {folder}; install some: apt install fonts-dejavu fonts-lato")
    return np.stack([drawn for _, drawn in kept.values()]), [name for name, _ in kept.values()]


def licences(fonts: Sequence[str], folder: Path = FONTS) -> dict[str, str]:
    """What each font file says of its licence, by the font's name: a URL, else its text, else its copyright."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.stem in fonts and path.suffix.lower() in {".ttf", ".otf"}:
            with TTFont(path, lazy=True) as font:
                told = (font["name"].getDebugName(field) for field in (14, 13, 0))  # of OpenType's name table
                found[path.stem] = next((" ".join(text.split()) for text in told if text), "not said")
    return found


def colour(coverage: Tensor, generator: torch.Generator) -> Tensor:
    """Pictures ``(B, 3, H, W)`` in [-1, 1]: glyphs ``(B, H, W)`` in a random dark ink on random light paper."""
    dark = torch.rand(len(coverage), 3, 1, 1, generator=generator) * 1.1 - 1.0
    light = torch.rand(len(coverage), 3, 1, 1, generator=generator) * 0.7 + 0.3
    return torch.lerp(light, dark, coverage[:, None])


def _render(face: ImageFont.FreeTypeFont, char: str, size: int) -> np.ndarray | None:
    canvas = Image.new("L", (3 * DRAWN_AT, 3 * DRAWN_AT))
    ImageDraw.Draw(canvas).text((1.5 * DRAWN_AT, 1.5 * DRAWN_AT), char, font=face, fill=255, anchor="mm")
    box = canvas.getbbox()
    if box is None:
        return None
    glyph = canvas.crop(box)
    side = round(max(glyph.size) / INK)
    square = Image.new("L", (side, side))
    square.paste(glyph, ((side - glyph.width) // 2, (side - glyph.height) // 2))
    return np.asarray(square.resize((size, size), Image.Resampling.LANCZOS), dtype=np.float32) / 255
