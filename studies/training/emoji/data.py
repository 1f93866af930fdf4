"""Training data of the demo models: Noto colour emoji and their names.

The pictures are the CBDT bitmaps of Debian's ``fonts-noto-color-emoji``, the names those of the
``emoji`` package. Neither is needed to *use* a demo model, only to train it again.
"""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

FONT_PATH = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
BITMAP_SIZE = 109  # the only pixel size at which FreeType finds the CBDT strike

# A coherent part of Unicode: faces, hearts, animals, plants, food, weather, sport, vehicles, shapes.
CODE_RANGES = (
    (0x1F600, 0x1F64F), (0x1F910, 0x1F93A), (0x1F970, 0x1F97A), (0x1FAE0, 0x1FAE8),
    (0x1F479, 0x1F480), (0x1F493, 0x1F49F), (0x2763, 0x2764), (0x1F5A4, 0x1F5A4),
    (0x1F90D, 0x1F90F), (0x1FA75, 0x1FA77), (0x1F400, 0x1F43F), (0x1F980, 0x1F9AE),
    (0x1FAB0, 0x1FABF), (0x1F330, 0x1F344), (0x1F345, 0x1F37F), (0x1F32D, 0x1F32F),
    (0x1F950, 0x1F96F), (0x1F9C0, 0x1F9CB), (0x1FAD0, 0x1FADB), (0x1F300, 0x1F321),
    (0x2600, 0x2604), (0x26C4, 0x26C5), (0x26A1, 0x26A1), (0x1F3B0, 0x1F3C9),
    (0x26BD, 0x26BE), (0x1F680, 0x1F6A5), (0x1F6E9, 0x1F6FC), (0x1F534, 0x1F53B),
    (0x1F7E0, 0x1F7EB), (0x26AA, 0x26AB), (0x2B1B, 0x2B1C), (0x1F440, 0x1F445),
    (0x1F451, 0x1F463), (0x1F380, 0x1F393), (0x1F4A0, 0x1F4AF), (0x1F310, 0x1F31F),
)  # fmt: skip


@dataclass(frozen=True)
class EmojiSet:
    """``names[i]`` is the caption of ``images[i]``, a ``(3, size, size)`` picture in [-1, 1]."""

    names: tuple[str, ...]
    images: np.ndarray


def load_emoji(size: int, font: Path = FONT_PATH) -> EmojiSet:
    """Every emoji of `load_glyphs` on white at ``size x size`` pixels."""
    pictures = {name: _on_white(glyph, size) for name, glyph in load_glyphs(font).items()}
    names = tuple(sorted(pictures))
    return EmojiSet(names, np.stack([pictures[name] for name in names]))


def load_glyphs(font: Path = FONT_PATH) -> dict[str, Image.Image]:
    """Every single-code-point emoji of `CODE_RANGES` by its caption: RGBA, cut to what is drawn."""
    import emoji

    if not font.exists():
        raise FileNotFoundError(f"no emoji font at {font}; install it: apt install fonts-noto-color-emoji")
    face = ImageFont.truetype(str(font), BITMAP_SIZE)
    glyphs: dict[str, Image.Image] = {}
    for char, entry in sorted(emoji.EMOJI_DATA.items()):
        code = ord(char[0])
        bare = char.replace("\ufe0f", "")
        if len(bare) != 1 or not any(low <= code <= high for low, high in CODE_RANGES):
            continue
        glyph = _glyph(face, bare)
        if glyph is not None:
            glyphs.setdefault(caption(entry["en"]), glyph)
    return glyphs


def caption(short_name: str) -> str:
    """``":smiling_face_with_3_hearts:"`` -> ``"smiling face with 3 hearts"``."""
    return " ".join(re.findall(r"[a-z0-9]+", short_name.lower().replace("\u2019", "")))


def _glyph(face: ImageFont.FreeTypeFont, char: str) -> Image.Image | None:
    canvas = Image.new("RGBA", (160, 160), (255, 255, 255, 0))
    ImageDraw.Draw(canvas).text((80, 80), char, font=face, embedded_color=True, anchor="mm")
    box = canvas.getbbox()
    return None if box is None or box[2] - box[0] < 40 else canvas.crop(box)


def _on_white(glyph: Image.Image, size: int) -> np.ndarray:
    side = round(max(glyph.size) * 1.06)
    square = Image.new("RGBA", (side, side), (255, 255, 255, 255))
    square.alpha_composite(glyph, ((side - glyph.width) // 2, (side - glyph.height) // 2))
    small = square.convert("RGB").resize((size, size), Image.Resampling.LANCZOS)
    return np.asarray(small, dtype=np.float32).transpose(2, 0, 1) / 127.5 - 1.0
