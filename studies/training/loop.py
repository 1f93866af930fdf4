"""The training loop of the demo models: AdamW, a warm-up and a cool-down, averaged weights, checkpoints."""

from __future__ import annotations

import argparse
import copy
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from hyca_calib.records.atomic import replacing

__all__ = ["Loop", "learning_rate", "main", "train_loop"]

Network = TypeVar("Network", bound=nn.Module)
Recipe = TypeVar("Recipe", bound="Loop")


@dataclass(frozen=True)
class Loop:
    """What the loop needs to know; a model's recipe adds everything else that decides its weights, besides the data."""

    steps: int
    batch: int = 64
    lr: float = 1e-3
    warmup: int = 200
    cooldown: float = 0.35  # last share of the steps, over which the learning rate falls to zero
    weight_decay: float = 0.01
    ema: float = 0.998
    seed: int = 0


def learning_rate(step: int, loop: Loop) -> float:
    """Warm-up, plateau, then linearly to zero."""
    left = (loop.steps - step) / max(1.0, loop.cooldown * loop.steps)
    return loop.lr * min(1.0, (step + 1) / loop.warmup, left)


def train_loop(
    model: Network,
    loss_of: Callable[[Callable[..., Tensor], torch.Generator], Tensor],
    loop: Loop,
    out: Path,
    device: str,
    compiled: bool,
    pipeline_of: Callable[[Network], Any],
    data: dict[str, Any],
    minutes_between_saves: float = 5.0,
) -> None:
    """Train `model` in place until ``loop.steps``; the same call continues from ``out/checkpoint.pt``.

    At every checkpoint the pipeline and the facts of the training are written to ``out/pipeline``.

    Args:
        loss_of: the loss of one batch, given the network to call and the source of randomness.
        pipeline_of: the pipeline around averaged weights in bfloat16.
        data: facts of what it is trained on.
    """
    model.to(device)
    average = copy.deepcopy(model).requires_grad_(False)
    optimizer = torch.optim.AdamW(model.parameters(), loop.lr, betas=(0.9, 0.99), weight_decay=loop.weight_decay)
    generator = torch.Generator().manual_seed(loop.seed)
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
        with replacing(checkpoint) as partial:
            torch.save(state, partial)
        pipeline_of(copy.deepcopy(average).to(torch.bfloat16)).save_pretrained(out / "pipeline")
        facts = {"step": step, "seconds": round(seconds), "loss": round(running, 5), "device": device}
        facts |= {"torch": torch.__version__, "recipe": asdict(loop), **data}
        (out / "pipeline" / "training.json").write_text(json.dumps(facts, indent=1) + "\n")

    call = torch.compile(model) if compiled else model
    saved = begun = time.monotonic()
    while step < loop.steps:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, loop)
        loss = loss_of(call, generator)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        decay = min(loop.ema, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)
        step += 1
        if step % 50 == 0:
            running += (loss.item() - running) * min(1.0, 50 / 1000 + 50 / step)
        now = time.monotonic()
        if step % 250 == 0:
            rate = step * loop.batch / (seconds + now - begun)
            print(f"step {step}  loss {running:.4f}  {rate:.0f} samples/s", flush=True)
        if now - saved > 60 * minutes_between_saves:
            seconds, begun = seconds + now - begun, now
            save()
            saved = time.monotonic()
    seconds += time.monotonic() - begun
    save()


def main(description: str, recipe: Recipe, train: Callable[[Recipe, Path, str, bool], None]) -> None:
    """The command of a training script: how long and where to train, and where to write."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints and the finished pipeline")
    parser.add_argument("--steps", type=int, default=recipe.steps, help="optimizer steps (default %(default)s)")
    parser.add_argument("--batch", type=int, default=recipe.batch, help="samples a step (default %(default)s)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="default %(default)s")
    parser.add_argument("--compile", action="store_true", help="torch.compile the network")
    args = parser.parse_args()
    train(replace(recipe, steps=args.steps, batch=args.batch), args.out, args.device, args.compile)
