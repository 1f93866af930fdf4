"""A model's card and the grid of pictures on it."""

import json
import random
from pathlib import Path
from typing import Any

import torch
from PIL import Image

SCALE, GAP = 2, 4


def drawn(pipe: Any, asked: list[str]) -> Any:
    """What a pipeline draws for a list of prompts or classes, as PIL pictures, of one noise."""
    pipe.set_progress_bar_config(disable=True)
    return pipe(asked, generator=torch.Generator().manual_seed(0), output_type="pil", return_dict=False)[0]


def captions_of(folder: Path, seen: int, unseen: int) -> tuple[list[str], list[str], int]:
    """Captions that a model was trained on and some that it never saw, not selected, and how many it never saw."""
    facts, picker = json.loads((folder / "training.json").read_text()), random.Random(0)
    known, held = (facts[f"{kind}_captions"] for kind in ("trained", "held_out"))
    return picker.sample(known, min(seen, len(known))), picker.sample(held, min(unseen, len(held))), len(held)


def write_clips_card(folder: Path, card: str, pipe: Any, seen: int, unseen: int, every: int, **facts: object) -> None:
    """As `write_card`, of a pipeline that draws clips from captions: some that it was trained on, then unseen ones.

    Args:
        every: n-th frame of a clip that is shown in its row.
    """
    config, (known, held, num_held) = pipe.config, captions_of(folder, seen, unseen)
    rows = [clip[::every] for clip in drawn(pipe, known + held)]
    told = {"frames": config.num_frames, "size": config.frame_size, "channels": pipe.transformer.config.in_channels}
    told |= {"seen": len(known), "unseen": len(held), "held": "; ".join(held), "num_held": num_held, **facts}
    write_card(folder, card, pipe, [frame for row in rows for frame in row], len(rows[0]), **told)


def write_card(folder: Path, card: str, pipe: Any, pictures: list[Image.Image], columns: int, **facts: object) -> None:
    """Write ``samples.png`` and ``README.md`` into a folder of weights.

    Args:
        card: the text, with fields in braces for `facts` and for what ``training.json`` and its recipe say.
        pictures: row by row, with so many columns.
    """
    picture_grid(pictures, columns).save(folder / "samples.png", optimize=True)
    told = json.loads((folder / "training.json").read_text())
    parameters, minutes = sum(p.numel() for p in pipe.transformer.parameters()) / 1e6, round(told["seconds"] / 60)
    text = card.format(**{**told["recipe"], **told, "parameters": parameters, "minutes": minutes, **facts})
    (folder / "README.md").write_text(text)


def picture_grid(pictures: list[Image.Image], columns: int) -> Image.Image:
    """Pictures row by row, enlarged without smoothing."""
    side = pictures[0].width * SCALE
    rows = -(-len(pictures) // columns)
    grid = Image.new("RGB", (columns * (side + GAP) + GAP, rows * (side + GAP) + GAP), "white")
    for i, picture in enumerate(pictures):
        where = (GAP + i % columns * (side + GAP), GAP + i // columns * (side + GAP))
        grid.paste(picture.resize((side, side), Image.Resampling.NEAREST), where)
    return grid
