"""A grid of pictures for a model's card."""

from __future__ import annotations

from PIL import Image

__all__ = ["picture_grid"]

SCALE, GAP = 2, 4


def picture_grid(pictures: list[Image.Image], columns: int) -> Image.Image:
    """Pictures row by row, enlarged without smoothing."""
    side = pictures[0].width * SCALE
    rows = -(-len(pictures) // columns)
    grid = Image.new("RGB", (columns * (side + GAP) + GAP, rows * (side + GAP) + GAP), "white")
    for i, picture in enumerate(pictures):
        where = (GAP + i % columns * (side + GAP), GAP + i // columns * (side + GAP))
        grid.paste(picture.resize((side, side), Image.Resampling.NEAREST), where)
    return grid
