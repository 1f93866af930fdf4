"""A fine-tuned copy of the emoji model, made without data: it learns to draw its own pictures in other colours."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from hyca_calib.demo.emoji.pipeline import PATCH, EmojiPipeline, image_ids
from hyca_calib.pipelines.rollout import sample_latents
from hyca_calib.pipelines.workload import Job
from studies.training.flow import flow_loss

LR = 2e-4
BATCH = 16
DRAFT_STEPS = 16
"""Sampler steps of the pictures it learns from."""


def fine_tuned(pipe: EmojiPipeline, jobs: Sequence[Job], iterations: int, seed: int, kept: Path) -> EmojiPipeline:
    """A copy of `pipe` trained on recoloured samples of its own; the same arguments give the same weights.

    Args:
        jobs: what it draws to learn from.
        kept: the copy's transformer; read if it is there.
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
