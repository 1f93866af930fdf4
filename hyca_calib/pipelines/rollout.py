"""Running a pipeline over the jobs of a workload."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hyca_calib.pipelines.pipeline import Pipeline
from hyca_calib.pipelines.workload import Job, batches, merge_calls
from hyca_runtime import Plan, Session, apply_plan
from hyca_runtime.attach.points import find_transformer
from hyca_runtime.compiled_plan import OnMismatch
from hyca_runtime.errors import MissingHistoryWarning, PlanMismatchError, PlanMismatchWarning, WorkloadError


def device_of(pipe: Pipeline) -> torch.device:
    """The device of the network's weights."""
    return next(find_transformer(pipe).parameters()).device


@contextmanager
def followed(pipe: Pipeline, plan: Plan, on_mismatch: OnMismatch = "error") -> Iterator[Session]:
    """Let `pipe` follow `plan`.

    As with `apply_plan`, but branches that begin late are no error: they compute until they have the history that
    the plan takes.

    Raises:
        PlanMismatchError: a run leaves the plan's time grid, and that is an error.
    """
    strict = on_mismatch == "error"
    with warnings.catch_warnings():
        warnings.simplefilter("error" if strict else "default", PlanMismatchWarning)
        warnings.simplefilter("ignore", MissingHistoryWarning)
        try:
            with apply_plan(pipe, plan, "compute" if strict else on_mismatch) as session:
                yield session
        except PlanMismatchWarning as warning:
            raise PlanMismatchError(str(warning)) from warning


def sample_latents(
    pipe: Pipeline,
    jobs: Sequence[Job],
    num_steps: int,
    batch: int,
    on_batch: Callable[[int], None] | None = None,
    with_grad: bool = False,
) -> Tensor:
    """Final latents of `jobs`.

    Args:
        pipe: a diffusers pipeline that knows ``output_type="latent"``.
        batch: most samples in one call.
        on_batch: told the number of samples done after each call.
        with_grad: differentiate through the sampler; diffusers decorates every pipeline call with
            `torch.no_grad`, the function below the decorator is called instead.

    Returns:
        float32 with shape ``(len(jobs), ...)``.
    """
    call: Callable[..., Any] = pipe
    if with_grad:
        undecorated = getattr(type(pipe).__call__, "__wrapped__", type(pipe).__call__)
        call = undecorated.__get__(pipe)
    drawn = []
    for group in batches(jobs, batch):
        arguments = {**merge_calls(group), "num_inference_steps": num_steps}
        latents = call(**arguments, output_type="latent", return_dict=False)[0]
        if not isinstance(latents, Tensor):
            raise WorkloadError(f"{type(pipe).__name__} returned {type(latents).__name__} for output_type='latent'")
        drawn.append(latents.float())
        if on_batch is not None:
            on_batch(len(group))
    return torch.cat(drawn)


def sample_images(pipe: Pipeline, jobs: Sequence[Job], num_steps: int, batch: int) -> tuple[Tensor, Tensor]:
    """Does as `sample_clips`, with the frames of a video below one another, ``(len(jobs), 3, height, width)``."""
    clips, latents = sample_clips(pipe, jobs, num_steps, batch)
    return _stacked(clips), latents


def sample_clips(pipe: Pipeline, jobs: Sequence[Job], num_steps: int, batch: int) -> tuple[Tensor, Tensor]:
    """Pictures and final latents of `jobs`, from one run of each.

    Returns:
        Pictures in [0, 1] with shape ``(len(jobs), frames, 3, height, width)``, one frame of an image;
        and latents ``(len(jobs), ...)`` as the last step's callback shows them. A pipeline without
        ``callback_on_step_end`` (DiT, PixArt) shows none: the pictures stand for them.

    Raises:
        WorkloadError: the pipeline returned neither a tensor nor an array.
    """
    pictures, latents = [], []
    last: dict[str, Tensor] = {}
    shows_latents = "callback_on_step_end" in inspect.signature(type(pipe).__call__).parameters

    def keep(pipe: Any, step: int, timestep: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        del pipe, step, timestep
        last.update(tensors)
        return {}

    for group in batches(jobs, batch):
        arguments = {**merge_calls(group), "num_inference_steps": num_steps}
        if shows_latents:
            arguments["callback_on_step_end"] = keep
        drawn = pipe(**arguments, output_type="pt", return_dict=False)[0]
        pictures.append(_pictures(drawn, type(pipe).__name__))
        latents.append(last["latents"].float().cpu() if shows_latents else _stacked(pictures[-1]))
    return torch.cat(pictures), torch.cat(latents)


def _stacked(clips: Tensor) -> Tensor:
    """``(sample, 3, frames * height, width)``."""
    return clips.transpose(1, 2).flatten(2, 3)


def _pictures(drawn: object, drawn_by: str) -> Tensor:
    """``(sample, frame, 3, height, width)``, also from arrays, which pipelines that do not know "pt" return."""
    if isinstance(drawn, np.ndarray):
        drawn = torch.from_numpy(drawn).movedim(-1, -3)
    if not isinstance(drawn, Tensor):
        raise WorkloadError(f"{drawn_by} returned {type(drawn).__name__} for output_type='pt'")
    return (drawn if drawn.ndim == 5 else drawn.unsqueeze(1)).float().cpu()
