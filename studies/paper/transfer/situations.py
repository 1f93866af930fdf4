"""Where a plan is taken to: what differs from the runs it was made on."""

import copy
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from hyca_calib.demo.emoji.pipeline import PATCH, EmojiPipeline, image_ids
from hyca_calib.pipelines.rollout import sample_latents
from hyca_calib.pipelines.workload import Job, Workload
from studies.paper.chapter import Context
from studies.training.flow import flow_loss

STEP_SHARES = (0.4, 0.56, 0.8, 2.0)
"""Steps over those of the plan: 20, 28, 40 and 100 of 50."""
GUIDANCE = 2.5
"""The model's own is 1, none."""
LARGER = 1.5
SAMPLES, FEWEST = 38, 7
HOME = "its own"
OWN_PROMPTS, UNSEEN = "other seeds", "unseen prompts"
"""Situations: prompts that the plan was made on, and others."""

TUNING = 240
"""Iterations of fine-tuning."""
LR = 2e-4
BATCH = 16
DRAFT_STEPS = 16
"""Sampler steps of the pictures that a fine-tuned copy learns from."""

Kind = Literal["nothing", "samples", "steps", "guidance", "resolution", "weights"]
"""What differs from the runs the plan was made on."""


@dataclass(frozen=True)
class Situation:
    """A pipeline and what it is asked for.

    Attributes:
        pipe: makes or gives the pipeline.
    """

    name: str
    kind: Kind
    pipe: Callable[[], Any]
    workload: Workload

    @property
    def slug(self) -> str:
        """Its name as part of a file's name."""
        return "".join(c if c.isalnum() else "-" for c in self.name)


def situations(context: Context) -> dict[str, Situation]:
    """All that the emoji model is taken to, by name."""
    own = replace(context.workload, num_samples=FEWEST if context.quick else SAMPLES)
    seen, unseen = (tuple(job.call for job in context.workload.of(split)) for split in ("fit", "test"))
    shares = STEP_SHARES[-1:] if context.quick else STEP_SHARES
    side = round(LARGER * context.pipe.config.image_size / PATCH) * PATCH
    iterations, kept = 4 if context.quick else TUNING, context.folder / "fine-tuned.safetensors"
    tuned = partial(fine_tuned, context.pipe, context.workload.of("fit"), iterations, context.seed, kept)

    def here(name: str, kind: Kind, **changed: Any) -> Situation:
        return Situation(name, kind, lambda: context.pipe, replace(own, **changed))

    def asked(name: str, kind: Kind, **more: Any) -> Situation:
        return here(name, kind, prompts=tuple(call | more for call in own.prompts))

    found = [
        here(HOME, "nothing"),
        here(OWN_PROMPTS, "samples", prompts=seen, seed=own.seed + 1),
        here(UNSEEN, "samples", prompts=unseen, seed=own.seed + 1),
        *(here(f"{n} steps", "steps", num_steps=n) for n in (max(4, round(x * own.num_steps)) for x in shares)),
        asked(f"guidance {GUIDANCE:g}", "guidance", true_cfg_scale=GUIDANCE),
        asked(f"{side} x {side} pixels", "resolution", height=side, width=side),
        replace(here("fine-tuned copy", "weights"), pipe=tuned),
    ]
    return {situation.name: situation for situation in found}


def fine_tuned(pipe: EmojiPipeline, jobs: Sequence[Job], iterations: int, seed: int, kept: Path) -> EmojiPipeline:
    """A copy of `pipe`, made without data: it learns to draw its own samples of some jobs in other colours.

    The same arguments give the same weights; where they are kept, they are read.
    """
    transformer = copy.deepcopy(pipe.transformer)
    twin = EmojiPipeline(transformer, pipe.text_encoder, copy.deepcopy(pipe.scheduler), pipe.config.image_size)
    twin.set_progress_bar_config(disable=True)
    if not kept.exists():
        with torch.no_grad():
            clean = recoloured(sample_latents(pipe, jobs, DRAFT_STEPS, BATCH))
            words = pipe.text_encoder.tokenize([job.call["prompt"] for job in jobs]).to(clean.device)
        _train(twin, clean, words, iterations, torch.Generator().manual_seed(seed))
        kept.parent.mkdir(parents=True, exist_ok=True)
        save_file({name: value.contiguous() for name, value in transformer.state_dict().items()}, kept)
    transformer.load_state_dict(load_file(kept))
    return twin


def recoloured(tokens: Tensor) -> Tensor:
    """Tokens ``(B, tokens, 3 * patch^2)`` with red, green and blue moved on by one; black and white stay."""
    return tokens.unflatten(2, (3, -1)).roll(1, dims=2).flatten(2)  # type: ignore[no-untyped-call,no-any-return]


def _train(pipe: EmojiPipeline, clean: Tensor, words: Tensor, iterations: int, generator: torch.Generator) -> None:
    """AdamW on the loss the model was trained with; the text encoder stays."""
    ids = image_ids(pipe.config.image_size // PATCH, clean.device, torch.float32)

    def velocity(noisy: Tensor, t: Tensor, prompts: Tensor) -> Tensor:
        vectors, pooled = pipe.text_encoder(prompts)
        return pipe.transformer(  # type: ignore[no-any-return]
            hidden_states=noisy,
            timestep=t,
            encoder_hidden_states=vectors.detach(),
            pooled_projections=pooled.detach(),
            txt_ids=torch.zeros(prompts.shape[1], 3, device=noisy.device),
            img_ids=ids,
            return_dict=False,
        )[0]

    optimizer = torch.optim.AdamW(pipe.transformer.parameters(), LR, betas=(0.9, 0.99), weight_decay=0.01)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Mismatch dtype")  # norms in float32 under autocast
        for _ in range(iterations):
            pick = torch.randint(len(clean), (BATCH,), generator=generator)
            optimizer.zero_grad(set_to_none=True)
            flow_loss(velocity, clean[pick], words[pick], generator).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
