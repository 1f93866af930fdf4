"""The streaming model's card: what it is, what it was trained on, what it shows."""

from pathlib import Path

from hyca_calib.demo.stream.pipeline import StreamPipeline
from studies.training.card import write_clips_card
from studies.training.motion.clips import OBJECTS

SEEN, UNSEEN, EVERY = 6, 3, 4

CARD = """\
# HyCa streaming demo model: emoji in motion, some frames after the other

A text-to-video rectified flow with diffusion forcing on diffusers' own `SkyReelsV2Transformer3DModel`
({parameters:.1f} M parameters, {blocks} blocks, width {width}): {frames} frames of {size} x {size} RGB in chunks of
{chunk} latent frames, each at a time of its own; attention is causal over chunks, so that a clip may be as long as one
likes. Its autoencoder keeps {channels} principal components of every block of 2 frames and 4 x 4 pixels ({codec_db}
dB), its text encoder is one learned vector per word. Classifier-free guidance in two network calls a step. It exists so
that what HyCa does with videos made chunk by chunk can be shown on a model that is really trained, without a download.

![samples](samples.png)

Every fourth frame of a clip in each row. The first {seen} rows are captions it was trained on, the last {unseen} are
captions it never saw: {held}. 50 Euler steps of each chunk, guidance 3, seed 0, not selected.

| | |
|---|---|
| Data | {clips} clips rendered from {objects} pictures of Debian's `fonts-noto-color-emoji` |
| Licence | weights: Apache-2.0, as this repository; Noto Color Emoji: [SIL OFL 1.1](../../emoji/weights/OFL.txt) |
| Training | {step} steps of {batch} clips, {minutes} minutes on {device}; bf16 autocast, AdamW, EMA {ema} |
| Loss | {loss} (mean squared velocity error, times of chunks independent; running mean at the end) |
| Held out | {num_held} captions, for generalisation tests |
| Reproduce | `python -m studies.training.stream.train --out DIR --steps {step}` |

Out of scope: anything but testing.
"""


def write(folder: Path) -> None:
    """Write ``README.md`` and ``samples.png`` into a folder of weights."""
    pipe = StreamPipeline.from_weights(folder)
    write_clips_card(folder, CARD, pipe, SEEN, UNSEEN, EVERY, objects=len(OBJECTS))
