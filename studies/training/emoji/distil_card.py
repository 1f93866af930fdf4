"""The card of the distilled model: how near its eight steps come to what it was distilled from."""

import json
import random
from pathlib import Path

import torch
from torch import Tensor

from hyca_calib.demo import demo_pipeline
from hyca_calib.demo.emoji.pipeline import EmojiPipeline
from hyca_calib.demo.turbo.pipeline import STEPS, TurboPipeline
from studies.training.card import write_card

EACH, SHOWN, NOISE = 12, 6, 5
"""Names that it was trained on, and as many held out; of each kind some are shown. The noise was in no run."""

CARD = """\
# HyCa demo model: emoji in eight steps

`--model demo-turbo`: a copy of [`--model demo`](../../emoji/weights/README.md), distilled from its runs of
{teacher_steps} steps, for {student_steps} Euler steps of one network call without guidance (`--steps {student_steps}`).
It exists so that few-step models can be measured without a download.

![samples](samples.png)

Rows: {teacher_steps} steps of `demo`, {student_steps} steps of `demo`, {student_steps} steps of this model; of one
noise, not selected. Right half: names it never saw ({held}).

| PSNR to the {teacher_steps} steps of `demo`, dB, mean (worst) of {each} names each | names it was trained on | never |
|---|---|---|
| {student_steps} steps of `demo` | {taught_seen} | {taught_held} |
| {student_steps} steps of this model | {own_seen} | {own_held} |

{verdict} It was trained for minutes
only: it is far from a full distillation, and does not draw what it never saw much nearer than its teacher does.

| | |
|---|---|
| Network | as `demo`; what differs, {changed_mb:.1f} MB of it, lies here: single blocks and last layers |
| Data | {runs} runs of `demo`, each of one name and noise, drawn under its plan of 5x |
| Licence | weights: Apache-2.0, as this repository; Noto Color Emoji: [SIL OFL 1.1](../../emoji/weights/OFL.txt) |
| Training | {step} steps of {batch} samples, {minutes} minutes on {device}; AdamW, EMA {ema} |
| Loss | {loss} (mean squared velocity error, the hardest steps most often; running mean at the end, begun at 1) |
| Reproduce | `python -m studies.training.emoji.distil --out DIR` |

Out of scope: anything but testing.
"""


def write(folder: Path) -> None:
    """Measure the model in a folder of weights, and write ``README.md``, ``samples.png`` and figures there."""
    path = folder / "training.json"
    facts, picker = json.loads(path.read_text()), random.Random(0)
    names = [*picker.sample(facts["trained_names"], EACH), *picker.sample(facts["held_out_names"], EACH)]
    own, taught = TurboPipeline.from_weights(folder), demo_pipeline()
    full = pictures(taught, names, facts["recipe"]["teacher_steps"])
    ways = {"taught": pictures(taught, names, STEPS), "own": pictures(own, names, STEPS)}
    found = {way: psnr_each(images, full) for way, images in ways.items()}
    path.write_text(json.dumps(facts | {"psnr_db": found}, indent=1) + "\n")
    shown = [*range(SHOWN), *range(EACH, EACH + SHOWN)]
    write_card(
        folder,
        CARD,
        own,
        [picture for row in (full, *ways.values()) for picture in own.image_processor.postprocess(2 * row[shown] - 1)],
        2 * SHOWN,
        held=", ".join(names[EACH : EACH + SHOWN]),
        each=EACH,
        changed_mb=sum(file.stat().st_size for file in folder.glob("*.safetensors")) / 1e6,
        verdict=verdict(found),
        **{f"{way}_seen": told(each[:EACH]) for way, each in found.items()},
        **{f"{way}_held": told(each[EACH:]) for way, each in found.items()},
    )


def pictures(pipe: EmojiPipeline, names: list[str], steps: int) -> Tensor:
    """What a pipeline draws in so many steps, ``(name, 3, height, width)`` in [0, 1]."""
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(NOISE)
    found: Tensor = pipe(names, num_inference_steps=steps, generator=generator, output_type="pt", return_dict=False)[0]
    return found


def psnr_each(images: Tensor, full: Tensor) -> list[float]:
    """Of pictures in [0, 1], one by one, in dB."""
    each: list[float] = (-10 * (images - full).square().flatten(1).mean(1).log10()).tolist()
    return each


def told(each: list[float]) -> str:
    """Mean and worst."""
    return f"{sum(each) / len(each):.1f} ({min(each):.1f})"


def verdict(found: dict[str, list[float]]) -> str:
    """Whether distillation has brought anything, in a sentence."""
    gained = [own - taught for own, taught in zip(found["own"], found["taught"], strict=True)]
    mean, better = sum(gained) / len(gained), sum(each > 0 for each in gained)
    if mean <= 0:
        return f"**Distillation has brought it no nearer** ({mean:+.1f} dB on average): train it longer."
    return f"Distillation has brought it {mean:.1f} dB nearer on average, {better} of {len(gained)} samples."
