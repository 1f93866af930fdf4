"""The sound model's card: what it is, what it was trained on, how it sounds."""

from pathlib import Path

import torch
from PIL import Image

from hyca_calib.report.looks import shown
from studies.sound.notes import INSTRUMENTS, LENGTH, RATE, drawn_tunes
from studies.sound.pipeline import SoundPipeline
from studies.training.card import write_card

ROWS, COLUMNS, UNSEEN_SEED = 3, 6, 1

CARD = """\
# HyCa sound model: tunes of one instrument

A text-to-audio diffusion model on diffusers' own `StableAudioDiTModel` ({parameters:.1f} M parameters, {blocks} blocks,
width {width}): {length} samples of {rate} Hz. Its autoencoder is a lapped cosine transform ({hop} bands, {frames}
tokens), which loses nothing; its text encoder is one learned vector per word. The sampler is the second-order multistep
DPM-Solver++ over Karras' noise levels, guidance in one network call of twice the batch, both as `StableAudioPipeline`
does it. It exists so that HyCa's search could be tried on a kind of model that nothing was tuned on.

![samples](samples.png)

Spectrograms: {captions}. 50 steps, guidance 3, seed 0, not selected.

| | |
|---|---|
| Data | {tunes} tunes, rendered by `studies.sound.notes`: {instruments} |
| Licence | Apache-2.0, as this repository |
| Training | {step} steps of {batch} tunes, {minutes} minutes on {device}; bf16 autocast, AdamW, EMA {ema} |
| Loss | {loss} (mean squared velocity error; running mean at the end) |
| Reproduce | `python -m studies.sound.train --out DIR --compile` |

Out of scope: anything but testing.
"""


def write(folder: Path) -> None:
    """Write ``README.md`` and ``samples.png`` into a folder of weights."""
    pipe = SoundPipeline.from_weights(folder)
    pipe.set_progress_bar_config(disable=True)
    captions = [tune.caption for tune in drawn_tunes(ROWS * COLUMNS, UNSEEN_SEED)]
    sounds = pipe(captions, generator=torch.Generator().manual_seed(0), output_type="pt", return_dict=False)[0]
    spectrograms = [shown(sound, sound)[0, :, :, ::2].movedim(0, -1) for sound in sounds]
    pictures = [Image.fromarray((255 * colours).byte().numpy()) for colours in spectrograms]
    told = {"length": LENGTH, "rate": RATE, "frames": pipe.transformer.config.sample_size}
    told |= {"captions": "; ".join(captions), "instruments": ", ".join(INSTRUMENTS)}
    write_card(folder, CARD, pipe, pictures, COLUMNS, **told)
