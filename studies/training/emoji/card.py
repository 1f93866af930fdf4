"""The demo model's card: what it is, what it was trained on, what it draws."""

from __future__ import annotations

import json
import random
from pathlib import Path

import torch

from hyca_calib.demo.emoji import load
from hyca_calib.records.atomic import write_text
from studies.training.picture_grid import picture_grid

__all__ = ["write_card"]

COLUMNS = 12

CARD = """\
# HyCa demo model: emoji from words

A text-to-image rectified flow on diffusers' own `FluxTransformer2DModel` ({parameters:.1f} M parameters,
{double} double and {single} single blocks, width {width}) in pixel space: {size} x {size} RGB, cut into 4 x 4
squares by pixel-unshuffle ({tokens} tokens of 48 channels). Its text encoder is one learned vector per word. It
exists so that every stage of HyCa can be shown on a model that is really trained, without a download.

![samples](samples.png)

Upper rows: names it was trained on. Last row: names it never saw, made of words it knows
({held}). 50 Euler steps, no guidance, seed 0, not selected.

| | |
|---|---|
| Data | {pictures} pictures of Debian's `fonts-noto-color-emoji` (CBDT bitmaps), names from the PyPI package `emoji` |
| Licence | weights: Apache-2.0, as this repository; pictures: Noto Color Emoji by Google, [SIL OFL 1.1](OFL.txt) |
| Training | {step} steps of {batch} pictures, {minutes} minutes on {device}; bf16 autocast, AdamW, EMA {ema} |
| Loss | {loss} (mean squared velocity error, logit-normal times; running mean at the end) |
| Held out | {num_held} names, for generalisation tests |
| Reproduce | `python -m studies.training.emoji.train --out DIR --compile` |

It knows {words} words and nothing else; unknown words share one vector that was never trained.
Out of scope: anything but testing.
"""


def write_card(folder: Path) -> None:
    """Write ``README.md`` and ``samples.png`` into a folder of weights."""
    facts = json.loads((folder / "training.json").read_text())
    pipe = load(folder)
    pipe.set_progress_bar_config(disable=True)
    picker = random.Random(0)
    seen = picker.sample(facts["trained_names"], 5 * COLUMNS)
    unseen = picker.sample(facts["held_out_names"], COLUMNS)
    pictures = pipe(seen + unseen, generator=torch.Generator().manual_seed(0), return_dict=False)[0]
    picture_grid(pictures, COLUMNS).save(folder / "samples.png", optimize=True)
    recipe = facts["recipe"]
    text = CARD.format(
        parameters=sum(p.numel() for p in pipe.transformer.parameters()) / 1e6,
        double=recipe["double_blocks"],
        single=recipe["single_blocks"],
        width=recipe["width"],
        size=recipe["image_size"],
        tokens=pipe.num_tokens,
        held=", ".join(unseen),
        pictures=facts["pictures"],
        step=facts["step"],
        batch=recipe["batch"],
        minutes=round(facts["seconds"] / 60),
        device=facts["device"],
        ema=recipe["ema"],
        loss=facts["loss"],
        num_held=len(facts["held_out_names"]),
        words=len(pipe.text_encoder.index),
    )
    write_text(folder / "README.md", text)
