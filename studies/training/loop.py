"""The training loop of the demo models: AdamW, a warm-up and a cool-down, averaged weights, checkpoints."""

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


@dataclass
class _Training:
    """What an interrupted training goes on from.

    Attributes:
        average: the model with averaged weights.
        seconds: spent up to the last checkpoint.
        loss: its running mean.
    """

    model: nn.Module
    average: nn.Module
    optimizer: torch.optim.Optimizer
    generator: torch.Generator
    step: int = 0
    seconds: float = 0.0
    loss: float = 1.0

    def save(self, path: Path) -> None:
        state: dict[str, Any] = {name: getattr(self, name).state_dict() for name in ("model", "average", "optimizer")}
        state |= {"generator": self.generator.get_state()}
        state |= {"step": self.step, "seconds": self.seconds, "loss": self.loss}
        with replacing(path) as partial:
            torch.save(state, partial)

    def load(self, path: Path, device: str) -> None:
        state = torch.load(path, weights_only=True, map_location=device)
        for name in ("model", "average", "optimizer"):
            getattr(self, name).load_state_dict(state[name])
        self.generator.set_state(state["generator"].cpu())
        self.step, self.seconds, self.loss = state["step"], state["seconds"], state["loss"]

    def update(self, loss: Tensor, loop: Loop) -> None:
        """One step of the optimizer and of the average."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.step, loop)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        decay = min(loop.ema, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(list(self.average.parameters()), list(self.model.parameters()), 1 - decay)
        self.step += 1
        if self.step % 50 == 0:
            self.loss += (loss.item() - self.loss) * min(1.0, 50 / 1000 + 50 / self.step)


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
    training = _Training(model, average, optimizer, torch.Generator().manual_seed(loop.seed))
    out.mkdir(parents=True, exist_ok=True)
    checkpoint = out / "checkpoint.pt"
    if checkpoint.exists():
        training.load(checkpoint, device)
        print(f"continuing at step {training.step}", flush=True)
    call = torch.compile(model) if compiled else model
    begun, before = time.monotonic(), training.seconds
    while True:
        done = training.step >= loop.steps
        spent = before + time.monotonic() - begun
        if done or spent - training.seconds > 60 * minutes_between_saves:
            training.seconds = spent
            training.save(checkpoint)
            pipeline_of(copy.deepcopy(average).to(torch.bfloat16)).save_pretrained(out / "pipeline")
            facts = {"step": training.step, "seconds": round(spent), "loss": round(training.loss, 5), "device": device}
            facts |= {"torch": torch.__version__, "recipe": asdict(loop), **data}
            (out / "pipeline" / "training.json").write_text(json.dumps(facts, indent=1) + "\n")
        if done:
            return
        training.update(loss_of(call, training.generator), loop)
        if training.step % 250 == 0:
            rate = training.step * loop.batch / (before + time.monotonic() - begun)
            print(f"step {training.step}  loss {training.loss:.4f}  {rate:.0f} samples/s", flush=True)


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
