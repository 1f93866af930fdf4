"""The class-conditional model's card."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from hyca_calib.demo.glyphs import load
from hyca_calib.records.atomic import write_text
from studies.training.picture_grid import picture_grid

__all__ = ["write_card"]

ROWS, COLUMNS = 5, 18

CARD = """\
# HyCa class-conditional demo model: letters and digits

Denoising diffusion on diffusers' own `DiTTransformer2DModel` ({parameters:.1f} M parameters, {blocks} blocks, width
{width}) in pixel space: {size} x {size} RGB in {tokens} patches. {classes} classes, DDIM, velocity prediction,
classifier-free guidance with both branches in one network call. It is HyCa's second model: another architecture,
another sampler, another kind of guidance than the emoji model's.

![samples](samples.png)

50 DDIM steps, guidance 2, seed 0, not selected.

| | |
|---|---|
| Data | {pictures} glyphs of {fonts} Debian fonts in random inks on random papers |
| Licence | weights: Apache-2.0, as this repository; the fonts' own licences allow embedding of drawn text |
| Training | {step} steps of {batch} pictures, {minutes} minutes on {device}; bf16 autocast, AdamW, EMA {ema} |
| Loss | {loss} (mean squared velocity error, uniform times; running mean at the end) |
| Reproduce | `python -m studies.training.glyphs.train --out DIR --compile` |

Out of scope: anything but testing.
"""


def write_card(folder: Path) -> None:
    """Write ``README.md`` and ``samples.png`` into a folder of weights."""
    facts, pipe = json.loads((folder / "training.json").read_text()), load(folder)
    pipe.set_progress_bar_config(disable=True)
    classes, config = pipe.config.classes, pipe.transformer.config
    labels = [classes[i % len(classes)] for i in range(ROWS * COLUMNS)]
    pictures = pipe(labels, generator=torch.Generator().manual_seed(0), return_dict=False)[0]
    picture_grid(pictures, COLUMNS).save(folder / "samples.png", optimize=True)
    text = CARD.format(
        parameters=sum(p.numel() for p in pipe.transformer.parameters()) / 1e6,
        blocks=config.num_layers,
        width=config.num_attention_heads * config.attention_head_dim,
        size=config.sample_size,
        tokens=(config.sample_size // config.patch_size) ** 2,
        classes=len(classes),
        pictures=facts["pictures"],
        fonts=facts["fonts"],
        step=facts["step"],
        batch=facts["recipe"]["batch"],
        minutes=round(facts["seconds"] / 60),
        device=facts["device"],
        ema=facts["recipe"]["ema"],
        loss=facts["loss"],
    )
    write_text(folder / "README.md", text)
