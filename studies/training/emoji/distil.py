"""Distil the demo model into eight steps: ``python -m studies.training.emoji.distil --out DIR``.

The student is a copy of the model. From the points of the teacher's runs of 50 steps at the times of its own steps it
learns to reach the next one (Luhman and Luhman 2021, with the points on the way). Where the teacher itself would miss
them most, in the first and in the last step, it learns most often, and slowly: what it could before is soon forgotten,
and errors of single steps add up. Only what follows the double blocks is trained. The teacher's runs are drawn once,
under the published plan of 5x, which is near enough to full ones, and kept; checkpoints are as in
`studies.training.loop`.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor

from hyca_calib.demo import weights_of
from hyca_calib.demo.emoji.pipeline import EmojiPipeline
from hyca_calib.demo.turbo.pipeline import STEPS, TurboPipeline
from hyca_calib.records.atomic import replacing
from hyca_runtime import apply_plan, load_plan
from studies.training.emoji import distil_card
from studies.training.emoji.train import Flow
from studies.training.emoji.train import Recipe as Taught
from studies.training.loop import Loop, main, train_loop

PLAN = Path("studies/bench/demo/5x.plan.json")
TRAINED = ("single_transformer_blocks", "norm_out", "proj_out")
"""Modules of the network that differ from the teacher's."""


@dataclass(frozen=True)
class Recipe(Loop):
    """Everything that decides the weights, besides the teacher's.

    Attributes:
        runs: of the teacher, each of one name and noise.
        teacher_steps: of such a run.
        student_steps: that the student learns to do with.
    """

    steps: int = 1_000
    batch: int = 16
    lr: float = 5e-5
    warmup: int = 30
    cooldown: float = 0.6
    weight_decay: float = 0.0
    ema: float = 0.98
    runs: int = 256
    teacher_steps: int = 50
    student_steps: int = STEPS


def teacher_run(teacher: EmojiPipeline, names: list[str], recipe: Recipe, generator: torch.Generator) -> Tensor:
    """Where the teacher is at the times of the student's steps, ``(step + 1, sample, token, channel)``.

    Between two of its own steps it moves along a line, as Euler's method has it.
    """
    noise = torch.randn(len(names), teacher.num_tokens, teacher.transformer.config.in_channels, generator=generator)
    points = [noise]

    def keep(*told: Any) -> dict[str, Tensor]:
        points.append(told[-1]["latents"])
        return {}

    teacher(names, num_inference_steps=recipe.teacher_steps, latents=noise, callback_on_step_end=keep)
    where = torch.arange(recipe.student_steps + 1) * recipe.teacher_steps / recipe.student_steps
    before = where.long().clamp(max=recipe.teacher_steps - 1)
    path, share = torch.stack(points), (where - before).view(-1, 1, 1, 1)
    return torch.lerp(path[before], path[before + 1], share)


def teacher_runs(names: list[str], recipe: Recipe, folder: Path, batch: int = 16) -> Tensor:
    """`teacher_run` of all names, kept in the folder batch by batch."""
    teacher, found = EmojiPipeline.from_weights(weights_of("demo")), list[Tensor]()
    teacher.set_progress_bar_config(disable=True)
    folder.mkdir(parents=True, exist_ok=True)
    with apply_plan(teacher, load_plan(PLAN)):
        for first in range(0, len(names), batch):
            path = folder / f"{first}.pt"
            if not path.exists():
                drawn = teacher_run(teacher, names[first : first + batch], recipe, torch.Generator().manual_seed(first))
                with replacing(path) as partial:
                    torch.save(drawn, partial)
                print(f"run {first + batch} of the teacher's {len(names)}", flush=True)
            found.append(torch.load(path, weights_only=True))
    return torch.cat(found, dim=1)


def step_errors(model: Callable[..., Tensor], runs: Tensor, words: Tensor, step: Tensor, sample: Tensor) -> Tensor:
    """Mean squared error of the velocity that leads from a point of a run to the next one, ``(B,)``.

    Args:
        runs: of the teacher, ``(step + 1, sample, token, channel)``.
        words: ``(sample, word)``.
        step, sample: which points, ``(B,)`` both.
    """
    steps = len(runs) - 1
    wanted = steps * (runs[step, sample] - runs[step + 1, sample])
    velocity = model(runs[step, sample], 1 - step / steps, words[sample])
    return (velocity - wanted).square().flatten(1).mean(1)


def step_loss(
    runs: Tensor, words: Tensor, missed: Tensor, recipe: Recipe
) -> Callable[[Callable[..., Tensor], torch.Generator], Tensor]:
    """The mean of `step_errors` over random points.

    Args:
        missed: the teacher's own errors at each step, whose roots say how often each is drawn, ``(step,)``.
    """

    def loss_of(model: Callable[..., Tensor], generator: torch.Generator) -> Tensor:
        step = torch.multinomial(missed.sqrt().cpu(), recipe.batch, replacement=True, generator=generator)
        sample = torch.randint(runs.shape[1], (recipe.batch,), generator=generator)
        return step_errors(model, runs, words, step.to(runs.device), sample.to(runs.device)).mean()

    return loss_of


@torch.no_grad()
def own_errors(model: Callable[..., Tensor], runs: Tensor, words: Tensor, count: int = 16) -> Tensor:
    """Mean `step_errors` of the first runs, ``(step,)``."""
    sample = torch.arange(min(count, runs.shape[1]), device=runs.device)
    steps = range(len(runs) - 1)
    return torch.stack([step_errors(model, runs, words, torch.full_like(sample, k), sample).mean() for k in steps])


def train(recipe: Recipe, out: Path, device: str, compiled: bool) -> None:
    """Train until `recipe.steps`, then write the pipeline and its card to ``out/pipeline``."""
    facts = json.loads((weights_of("demo") / "training.json").read_text())
    order = torch.randperm(len(facts["trained_names"]), generator=torch.Generator().manual_seed(recipe.seed)).tolist()
    names = [facts["trained_names"][order[i % len(order)]] for i in range(recipe.runs)]
    runs = teacher_runs(names, recipe, out / "runs").to(device)
    teacher = EmojiPipeline.from_weights(weights_of("demo"))
    model = Flow(Taught(), list(teacher.text_encoder.index))
    model.text_encoder, model.transformer = teacher.text_encoder, teacher.transformer
    model.requires_grad_(False)
    for part in TRAINED:
        getattr(model.transformer, part).requires_grad_(True)
    words = model.text_encoder.tokenize(names).to(device)

    def pipeline_of(half: Flow) -> TurboPipeline:
        return TurboPipeline(half.transformer, half.text_encoder, FlowMatchEulerDiscreteScheduler(shift=1.0))

    told: dict[str, Any] = {key: facts[key] for key in ("trained_names", "held_out_names")}
    missed = own_errors(model.to(device), runs, words)
    train_loop(model, step_loss(runs, words, missed, recipe), recipe, out, device, compiled, pipeline_of, told)
    distil_card.write(out / "pipeline")


if __name__ == "__main__":
    main(str(__doc__), Recipe(), train)
