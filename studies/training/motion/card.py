"""The video model's card: what it is, what it was trained on, what it shows."""

from __future__ import annotations

import json
import random
from pathlib import Path

import torch

from hyca_calib.demo.motion import load
from hyca_calib.records.atomic import write_text
from studies.training.picture_grid import picture_grid

__all__ = ["write_card"]

SEEN, UNSEEN, EVERY = 8, 4, 2

CARD = """\
# HyCa video demo model: emoji in motion

A text-to-video rectified flow on diffusers' own `WanTransformer3DModel` ({parameters:.1f} M parameters, {blocks}
blocks, width {width}): {frames} frames of {size} x {size} RGB. Its autoencoder keeps {channels} principal components of
every block of 4 frames and 4 x 4 pixels ({tokens} tokens; {codec_db} dB), its text encoder is one learned vector per
word. Classifier-free guidance in two network calls a step, as `WanPipeline` does it. It exists so that every stage of
HyCa can be shown on a video model that is really trained, without a download.

![samples](samples.png)

Every second frame of a clip in each row. The first {seen} rows are captions it was trained on, the last {unseen} are
captions it never saw: {held}. 50 Euler steps, guidance 3, seed 0, not selected.

| | |
|---|---|
| Data | {clips} clips rendered from {objects} pictures of Debian's `fonts-noto-color-emoji` |
| Licence | weights: Apache-2.0, as this repository; Noto Color Emoji: [SIL OFL 1.1](../../emoji/weights/OFL.txt) |
| Training | {step} steps of {batch} clips, {minutes} minutes on {device}; bf16 autocast, AdamW, EMA {ema} |
| Loss | {loss} (mean squared velocity error, shifted logit-normal times; running mean at the end) |
| Held out | {num_held} captions, for generalisation tests |
| Reproduce | `python -m studies.training.motion.train --out DIR --compile` |

Out of scope: anything but testing.
"""


def write_card(folder: Path) -> None:
    """Write ``README.md`` and ``samples.png`` into a folder of weights."""
    from studies.training.motion.clips import OBJECTS

    facts, pipe = json.loads((folder / "training.json").read_text()), load(folder)
    pipe.set_progress_bar_config(disable=True)
    picker = random.Random(0)
    seen = picker.sample(facts["trained_captions"], SEEN)
    unseen = picker.sample(facts["held_out_captions"], UNSEEN)
    clips = pipe(seen + unseen, generator=torch.Generator().manual_seed(0), output_type="pil", return_dict=False)[0]
    shown = [frame for clip in clips for frame in clip[::EVERY]]
    picture_grid(shown, len(clips[0][::EVERY])).save(folder / "samples.png", optimize=True)
    config, recipe = pipe.transformer.config, facts["recipe"]
    latent = (pipe.config.num_frames // 4) * (pipe.config.frame_size // 4) ** 2
    text = CARD.format(
        parameters=sum(p.numel() for p in pipe.transformer.parameters()) / 1e6,
        blocks=config.num_layers,
        width=config.num_attention_heads * config.attention_head_dim,
        frames=pipe.config.num_frames,
        size=pipe.config.frame_size,
        channels=config.in_channels,
        tokens=latent,
        codec_db=facts["codec_db"],
        seen=SEEN,
        unseen=UNSEEN,
        held="; ".join(unseen),
        clips=facts["clips"],
        objects=len(OBJECTS),
        step=facts["step"],
        batch=recipe["batch"],
        minutes=round(facts["seconds"] / 60),
        device=facts["device"],
        ema=recipe["ema"],
        loss=facts["loss"],
        num_held=len(facts["held_out_captions"]),
    )
    write_text(folder / "README.md", text)
