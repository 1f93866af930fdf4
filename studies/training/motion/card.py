"""The video model's card: what it is, what it was trained on, what it shows."""

from pathlib import Path

from hyca_calib.demo.motion.pipeline import MotionPipeline
from studies.training.card import write_clips_card
from studies.training.motion.clips import OBJECTS

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


def write(folder: Path) -> None:
    """Write ``README.md`` and ``samples.png`` into a folder of weights."""
    pipe = MotionPipeline.from_weights(folder)
    tokens = (pipe.config.num_frames // 4) * (pipe.config.frame_size // 4) ** 2
    write_clips_card(folder, CARD, pipe, SEEN, UNSEEN, EVERY, objects=len(OBJECTS), tokens=tokens)
