"""Train the demo model again: ``python -m hyca_calib.demo.train --out DIR``.

Rectified flow (Liu et al. 2022): ``x_t = (1 - t) x + t noise``, the network predicts
``noise - x`` from ``x_t``; t is logit-normal (Esser et al. 2024). Checkpoints are written every
few minutes and the same command continues from the last one. Needs the `train` extra and
Debian's ``fonts-noto-color-emoji``.
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, FluxTransformer2DModel
from torch import Tensor, nn

from hyca_calib.demo.card import write_card
from hyca_calib.demo.emoji_data import EmojiSet, load_emoji
from hyca_calib.demo.pipeline import PATCH, EmojiPipeline, image_ids, pack
from hyca_calib.demo.text import PAD, WordEncoder


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the weights, besides the data."""

    steps: int = 4_600
    batch: int = 64
    lr: float = 1e-3
    warmup: int = 200
    cooldown: float = 0.35  # last share of the steps, over which the learning rate falls to zero
    weight_decay: float = 0.01
    ema: float = 0.998
    drop_prompt: float = 0.1
    holdout: float = 0.05
    image_size: int = 32
    width: int = 192
    double_blocks: int = 4
    single_blocks: int = 8
    seed: int = 0


class Flow(nn.Module):
    """Text encoder and transformer as one trainable network."""

    def __init__(self, recipe: Recipe, vocabulary: list[str]) -> None:
        super().__init__()
        self.side = recipe.image_size // PATCH
        self.text_encoder = WordEncoder(vocabulary=vocabulary, dim=recipe.width)
        self.transformer = FluxTransformer2DModel(
            in_channels=3 * PATCH**2,
            num_layers=recipe.double_blocks,
            num_single_layers=recipe.single_blocks,
            attention_head_dim=64,
            num_attention_heads=recipe.width // 64,
            joint_attention_dim=recipe.width,
            pooled_projection_dim=recipe.width,
            axes_dims_rope=(16, 24, 24),
        )
        for linear in (self.transformer.proj_out, self.transformer.norm_out.linear):
            nn.init.zeros_(linear.weight)

    def forward(self, noisy: Tensor, t: Tensor, words: Tensor) -> Tensor:
        vectors, pooled = self.text_encoder(words)
        return self.transformer(  # type: ignore[no-any-return]
            hidden_states=noisy,
            timestep=t,
            encoder_hidden_states=vectors,
            pooled_projections=pooled,
            txt_ids=torch.zeros(words.shape[1], 3, device=noisy.device),
            img_ids=image_ids(self.side, noisy.device, torch.float32),
            return_dict=False,
        )[0]


def split_names(data: EmojiSet, holdout: float, seed: int) -> tuple[list[int], list[int]]:
    """Indices to train on, and held-out names every word of which occurs in another name."""
    order = list(range(len(data.names)))
    random.Random(seed).shuffle(order)
    count: dict[str, int] = {}
    for name in data.names:
        for word in set(name.split()):
            count[word] = count.get(word, 0) + 1
    held: list[int] = []
    for i in order:
        words = set(data.names[i].split())
        if len(held) < holdout * len(order) and len(words) > 1 and all(count[w] > 2 for w in words):
            held.append(i)
            for word in words:
                count[word] -= 1
    return sorted(set(order) - set(held)), sorted(held)


def learning_rate(step: int, recipe: Recipe) -> float:
    """Warm-up, plateau, then linearly to zero."""
    left = (recipe.steps - step) / max(1.0, recipe.cooldown * recipe.steps)
    return recipe.lr * min(1.0, (step + 1) / recipe.warmup, left)


def loss_at(model: Callable[..., Tensor], clean: Tensor, words: Tensor, generator: torch.Generator) -> Tensor:
    """Mean squared velocity error at a logit-normal time for each sample."""
    t = torch.sigmoid(torch.randn(len(clean), generator=generator)).to(clean.device)
    noise = torch.randn(clean.shape, generator=generator).to(clean.device)
    noisy = torch.lerp(clean, noise, t.view(-1, 1, 1))
    with torch.autocast(clean.device.type, torch.bfloat16):
        velocity = model(noisy, t, words)
    error: Tensor = velocity.float() - (noise - clean)
    return error.square().mean()


def train(recipe: Recipe, out: Path, device: str, compile_model: bool, minutes_between_saves: float = 5.0) -> None:
    """Train until `recipe.steps`, then write the pipeline to ``out/pipeline``."""
    torch.manual_seed(recipe.seed)
    data = load_emoji(recipe.image_size)
    kept, held = split_names(data, recipe.holdout, recipe.seed)
    vocabulary = sorted({word for i in kept for word in data.names[i].split()})
    images = pack(torch.from_numpy(data.images[kept])).to(device)
    model = Flow(recipe, vocabulary).to(device)
    words = model.text_encoder.tokenize([data.names[i] for i in kept]).to(device)
    average = copy.deepcopy(model).requires_grad_(False)
    optimizer = torch.optim.AdamW(model.parameters(), recipe.lr, betas=(0.9, 0.99), weight_decay=recipe.weight_decay)
    generator = torch.Generator().manual_seed(recipe.seed)
    step, seconds, running = 0, 0.0, 1.0

    out.mkdir(parents=True, exist_ok=True)
    checkpoint = out / "checkpoint.pt"
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True, map_location=device)
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        generator.set_state(state["generator"].cpu())
        step, seconds, running = state["step"], state["seconds"], state["loss"]
        print(f"continuing at step {step}", flush=True)

    def save() -> None:
        state: dict[str, Any] = {
            "model": model.state_dict(),
            "average": average.state_dict(),
            "optimizer": optimizer.state_dict(),
        }
        state |= {"generator": generator.get_state(), "step": step, "seconds": seconds, "loss": running}
        partial = checkpoint.with_suffix(".partial")
        torch.save(state, partial)
        partial.replace(checkpoint)
        facts = {"recipe": asdict(recipe), "step": step, "seconds": round(seconds), "loss": round(running, 5)}
        facts |= {"pictures": len(kept), "device": device, "torch": torch.__version__}
        facts |= {"trained_names": [data.names[i] for i in kept], "held_out_names": [data.names[i] for i in held]}
        export(average, recipe, facts, out / "pipeline")

    call = torch.compile(model) if compile_model else model
    saved = begun = time.monotonic()
    while step < recipe.steps:
        pick = torch.randint(len(images), (recipe.batch,), generator=generator).to(device)
        dropped = torch.rand(recipe.batch, 1, generator=generator).to(device) < recipe.drop_prompt
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, recipe)
        loss = loss_at(call, images[pick], words[pick].masked_fill(dropped, PAD), generator)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        decay = min(recipe.ema, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
        step += 1
        if step % 50 == 0:
            running += (loss.item() - running) * min(1.0, 50 / 1000 + 50 / step)
        now = time.monotonic()
        if step % 250 == 0:
            rate = step * recipe.batch / (seconds + now - begun)
            print(f"step {step}  loss {running:.4f}  {rate:.0f} samples/s", flush=True)
        if now - saved > 60 * minutes_between_saves or step == recipe.steps:
            seconds, begun = seconds + now - begun, now
            save()
            saved = time.monotonic()
    write_card(out / "pipeline")


def export(average: Flow, recipe: Recipe, facts: dict[str, object], folder: Path) -> None:
    """Write `average` as a diffusers pipeline in bfloat16, with `facts` as ``training.json``."""
    half = copy.deepcopy(average).to(torch.bfloat16)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=1.0)
    EmojiPipeline(half.transformer, half.text_encoder, scheduler, recipe.image_size).save_pretrained(folder)
    (folder / "training.json").write_text(json.dumps(facts, indent=1) + "\n")


def main() -> None:
    """Parse the options and train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints and the finished pipeline")
    parser.add_argument("--steps", type=int, default=Recipe.steps, help="optimizer steps (default %(default)s)")
    parser.add_argument("--batch", type=int, default=Recipe.batch, help="pictures a step (default %(default)s)")
    parser.add_argument("--image-size", type=int, default=Recipe.image_size, help="pixels (default %(default)s)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="default %(default)s")
    parser.add_argument("--compile", action="store_true", help="torch.compile the network")
    args = parser.parse_args()
    recipe = Recipe(steps=args.steps, batch=args.batch, image_size=args.image_size)
    train(recipe, args.out, args.device, args.compile)


if __name__ == "__main__":
    main()
