"""The demo model's card: what it is, what it was trained on, what it draws."""

import json
import random
from pathlib import Path

from hyca_calib.demo.emoji.pipeline import EmojiPipeline
from studies.training.card import drawn, write_card

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


def write(folder: Path) -> None:
    """Write ``README.md`` and ``samples.png`` into a folder of weights."""
    facts, pipe = json.loads((folder / "training.json").read_text()), EmojiPipeline.from_weights(folder)
    picker = random.Random(0)
    seen = picker.sample(facts["trained_names"], 5 * COLUMNS)
    unseen = picker.sample(facts["held_out_names"], COLUMNS)
    write_card(
        folder,
        CARD,
        pipe,
        drawn(pipe, seen + unseen),
        COLUMNS,
        double=pipe.transformer.config.num_layers,
        single=pipe.transformer.config.num_single_layers,
        size=pipe.config.image_size,
        tokens=pipe.num_tokens,
        held=", ".join(unseen),
        num_held=len(facts["held_out_names"]),
        words=len(pipe.text_encoder.index),
    )
