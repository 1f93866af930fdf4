"""The class-conditional model's card."""

import json
from pathlib import Path

from hyca_calib.demo.glyphs.pipeline import GlyphPipeline
from studies.training.card import drawn, write_card

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
| Licence | weights: Apache-2.0, as this repository; the fonts have licences of their own, see below |
| Training | {step} steps of {batch} pictures, {minutes} minutes on {device}; bf16 autocast, AdamW, EMA {ema} |
| Loss | {loss} (mean squared velocity error, uniform times; running mean at the end) |
| Reproduce | `python -m studies.training.glyphs.train --out DIR --compile` |

Out of scope: anything but testing.

## Fonts

{listed}
"""

NOT_RECORDED = """\
When these weights were trained, only the number of the fonts was written down, not their names and licences; they
came from Debian's `fonts-*` packages. A new training lists them here.
"""


def write(folder: Path) -> None:
    """Write ``README.md`` and ``samples.png`` into a folder of weights."""
    pipe = GlyphPipeline.from_weights(folder)
    classes, config = pipe.config.classes, pipe.transformer.config
    known = json.loads((folder / "training.json").read_text()).get("licences", {})
    listed = "\n".join(f"- {font}: {licence}" for font, licence in known.items()) or NOT_RECORDED.strip()
    write_card(
        folder,
        CARD,
        pipe,
        drawn(pipe, [classes[i % len(classes)] for i in range(ROWS * COLUMNS)]),
        COLUMNS,
        width=config.num_attention_heads * config.attention_head_dim,
        size=config.sample_size,
        tokens=(config.sample_size // config.patch_size) ** 2,
        classes=len(classes),
        listed=listed,
    )
