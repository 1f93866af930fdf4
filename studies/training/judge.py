"""Train the judges again: ``python -m studies.training.judge --model demo``.

On the pictures that the embedded models were trained on, shifted, faded and noisy. Needs what those models' training
needs: Debian's ``fonts-noto-color-emoji`` and the `train` extra, or for demo-class as many Latin fonts as can be had.
"""

import argparse
import json
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from hyca_calib.demo.judge import WEIGHTS
from hyca_calib.demo.judge.network import Judge

SIZE = 32
STATISTICS = 4096
"""Real clips whose features are described."""


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights, besides the data.

    Attributes:
        holdout: share of the clips that only measure recall; without any, other variations of all do.
    """

    steps: int
    holdout: float
    batch: int = 64
    lr: float = 2e-3
    shift: int = 2
    noise: float = 0.03
    seed: int = 0


Data = tuple[Tensor, list[tuple[str, ...]]]
"""Clips ``(sample, 3, frame, height, width)`` in uint8, and the labels of each."""


def emoji() -> Data:
    """Every emoji by the words of its name."""
    from studies.training.emoji.data import load_emoji

    found = load_emoji(SIZE)
    return _bytes(torch.from_numpy(found.images)[:, :, None]), [tuple(name.split()) for name in found.names]


def glyphs() -> Data:
    """Letters and digits of every font, by class."""
    from hyca_calib.demo.glyphs.pipeline import CLASSES
    from studies.training.glyphs.data import colour, load_glyphs

    coverage, fonts = load_glyphs(SIZE)
    drawn = colour(torch.from_numpy(coverage).flatten(0, 1), torch.Generator().manual_seed(0))
    return _bytes(drawn[:, :, None]), [(name,) for _ in fonts for name in CLASSES]


def motion() -> Data:
    """Every scene, by the words of its caption."""
    from studies.training.motion.clips import scenes
    from studies.training.motion.train import Recipe as Motion
    from studies.training.motion.train import rendered

    found = scenes(Motion.seed)
    clips, which = rendered(found, Motion.offsets)
    return clips, [tuple(found[i].caption.split()) for i in which.tolist()]


def stream() -> Data:
    """The same scenes, as long as the streaming model draws them."""
    from studies.training.motion.clips import scenes
    from studies.training.stream.train import Recipe as Stream
    from studies.training.stream.train import rendered

    found = scenes(Stream.seed)
    clips, which = rendered(found, Stream.offsets)
    return clips, [tuple(found[i].caption.split()) for i in which.tolist()]


SOURCES: dict[str, tuple[Callable[[], Data], Recipe]] = {
    "demo": (emoji, Recipe(steps=2000, holdout=0.0)),  # there is one picture of each name
    "demo-class": (glyphs, Recipe(steps=1500, holdout=0.1)),
    "demo-video": (motion, Recipe(steps=600, holdout=0.1)),
    "demo-stream": (stream, Recipe(steps=600, holdout=0.1)),
}
"""Data and recipe of each model's judge."""


def _bytes(pictures: Tensor) -> Tensor:
    """Pictures in [-1, 1] as uint8."""
    return ((pictures + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)


def varied(clips: Tensor, recipe: Recipe, generator: torch.Generator) -> Tensor:
    """Clips in [0, 1], shifted by a few pixels, each with another brightness and contrast, and noisy."""
    dy, dx = torch.randint(-recipe.shift, recipe.shift + 1, (2,), generator=generator).tolist()
    moved = torch.roll(clips, (dy, dx), (-2, -1)).float() / 255
    gain, offset = torch.rand(2, len(clips), 1, 1, 1, 1, generator=generator)
    noise = torch.randn(moved.shape, generator=generator)
    changed: Tensor = (0.9 + 0.2 * gain) * moved + 0.1 * (offset - 0.5) + recipe.noise * noise
    return changed.clamp(0, 1)


def train(model: str, data: Data, recipe: Recipe, out: Path) -> None:
    """Train the judge of `model` and describe the features of real clips; writes ``out/MODEL.safetensors``."""
    torch.manual_seed(recipe.seed)
    generator = torch.Generator().manual_seed(recipe.seed)
    clips, labels = data
    judge = Judge(tuple(sorted({label for of in labels for label in of})), clips.shape[2])
    targets = torch.stack([judge.target(of) for of in labels])
    order = torch.randperm(len(clips), generator=generator)
    count = round(recipe.holdout * len(order))
    held, kept = order[:count] if count else order, order[count:]
    optimizer = torch.optim.AdamW(judge.parameters(), recipe.lr, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, recipe.lr, recipe.steps)
    for step in range(1, recipe.steps + 1):
        pick = kept[torch.randint(len(kept), (recipe.batch,), generator=generator)]
        _, logits = judge(varied(clips[pick], recipe, generator))
        loss = nn.functional.cross_entropy(logits, targets[pick])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            print(f"step {step}  loss {loss.item():.3f}", flush=True)
    judge.eval()
    real = clips[order[:STATISTICS]].float() / 255
    features, _ = judge.judge(real.flatten(2, 3))
    judge.mean.copy_(features.mean(0))
    judge.covariance.copy_(features.T.cov())
    _, logits = judge.judge(varied(clips[held], recipe, generator).flatten(2, 3))
    right = statistics.fmean(judge.recalled(logits, [labels[i] for i in held.tolist()]))
    print(f"{right:.3f} of the labels are recalled", flush=True)
    facts = {"labels": judge.labels, "frames": judge.frames, "recipe": asdict(recipe), "clips": len(clips)}
    facts |= {"recall": round(right, 4)}
    out.mkdir(parents=True, exist_ok=True)
    weights = {
        name: tensor.half() if name.endswith("weight") else tensor for name, tensor in judge.state_dict().items()
    }
    save_file(weights, out / f"{model}.safetensors", {"facts": json.dumps(facts)})


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=tuple(SOURCES), required=True, help="whose pictures to judge")
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="folder for the weights (default: the package's)")
    args = parser.parse_args()
    source, recipe = SOURCES[args.model]
    train(args.model, source(), recipe, args.out)


if __name__ == "__main__":
    main()
