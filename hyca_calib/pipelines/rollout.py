"""Running a pipeline over the jobs of a workload."""

import inspect
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from hyca_calib.pipelines.contract import check_calls, takes, told
from hyca_calib.pipelines.media import named
from hyca_calib.pipelines.outputs import are_pictures, samples_of
from hyca_calib.pipelines.pipeline import Pipeline
from hyca_calib.pipelines.workload import Job, batches, merge_calls
from hyca_calib.records.console import say
from hyca_runtime import Plan, Session, apply_plan
from hyca_runtime.attach.points import find_transformer
from hyca_runtime.compiled_plan import OnMismatch
from hyca_runtime.errors import (
    HycaError,
    MissingHistoryWarning,
    PlanMismatchError,
    PlanMismatchWarning,
    WorkloadError,
)


def runs_on(pipe: Pipeline) -> torch.device:
    """The device that the networks compute on; offloaded weights are elsewhere in between."""
    weights = next(find_transformer(pipe).parameters())
    return torch.device(getattr(pipe, "_execution_device", None) or weights.device)


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
            `torch.no_grad`, the function below all decorators is called instead.

    Returns:
        float32 with shape ``(len(jobs), ...)``.

    Raises:
        OutOfMemoryError: not even one job fits.
        WorkloadError: the pipeline cannot be called with a job's arguments, fails, or returns no tensor; with gradients
            a failure is raised as it is.
    """
    drawn = []
    for group, latents in _drawn(pipe, jobs, num_steps, batch, with_grad, output_type="latent"):
        if not isinstance(latents, Tensor):
            raise WorkloadError(
                f"{type(pipe).__name__} returned {type(latents).__name__} for output_type='latent', expected a tensor; "
                "give a pipeline around it that returns latents"
            )
        drawn.append(latents.float())
        if on_batch is not None:
            on_batch(len(group))
    return torch.cat(drawn)


def sample_images(pipe: Pipeline, jobs: Sequence[Job], num_steps: int, batch: int) -> tuple[Tensor, Tensor]:
    """Does as `sample_clips`, with the frames of a video below one another, ``(len(jobs), 3, height, width)``."""
    clips, latents = sample_clips(pipe, jobs, num_steps, batch)
    return _stacked(clips), latents


def sample_clips(pipe: Pipeline, jobs: Sequence[Job], num_steps: int, batch: int) -> tuple[Tensor, Tensor]:
    """Finished samples and final latents of `jobs`, from one run of each.

    Returns:
        Pictures with shape ``(len(jobs), frames, channels, height, width)``, one frame of an image; samples that are no
        pictures, see `are_pictures`, as they are drawn, ``(len(jobs), ...)``. And latents ``(len(jobs), ...)`` as the
        last step's callback shows them. A pipeline without ``callback_on_step_end`` (DiT, PixArt) shows none: the
        samples stand for them.

    Raises:
        WorkloadError: the pipeline cannot be called with a job's arguments, fails, or returned neither a tensor nor an
            array.
    """
    samples, latents = [], []
    last: dict[str, Tensor] = {}

    def keep(pipe: Any, step: int, timestep: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        del pipe, step, timestep
        last.update(tensors)
        return {}

    watched: dict[str, Any] = {"callback_on_step_end": keep} if takes(pipe, "callback_on_step_end") else {}
    for _, output in _drawn(pipe, jobs, num_steps, batch, output_type="pt", **watched):
        samples.append(samples_of(output, type(pipe).__name__).float().cpu())
        latents.append(last.pop("latents").float().cpu() if "latents" in last else _stacked(samples[-1]))
    return torch.cat(samples), torch.cat(latents)


def _drawn(
    pipe: Pipeline, jobs: Sequence[Job], num_steps: int, batch: int, with_grad: bool = False, **options: Any
) -> Iterator[tuple[Sequence[Job], Any]]:
    """Groups of jobs and what a call draws for each. One that memory is too small for is halved, as all behind it are;
    not with gradients, of which earlier calls keep a part.

    Raises:
        OutOfMemoryError: not even one job fits.
    """
    waiting = list(batches(jobs, batch))
    while waiting:
        group = waiting[0]
        try:
            output = _called(pipe, group, num_steps, with_grad, **options)
        except torch.OutOfMemoryError:
            if with_grad or len(group) == 1:
                raise
            half = len(group) // 2
            say(f"out of memory with {len(group)} samples in one call; going on with {half}")
            waiting = list(batches([job for one in waiting for job in one], half))
            continue
        yield group, output
        waiting.pop(0)


def _called(pipe: Pipeline, group: Sequence[Job], num_steps: int, with_grad: bool = False, **options: Any) -> Any:
    """What one call of the pipeline draws for these jobs."""
    check_calls(pipe, [job.call for job in group])
    arguments = {**merge_calls(group), "num_inference_steps": num_steps, "return_dict": False, **options}
    if with_grad:
        return inspect.unwrap(type(pipe).__call__).__get__(pipe)(**arguments)[0]
    kind = type(pipe).__name__
    try:
        output = pipe(**arguments)
    except (HycaError, Warning, torch.OutOfMemoryError):
        raise
    except Exception as error:  # code that is not ours
        given = ", ".join(f"{key}={named(value)}" for key, value in group[0].call.items())
        raise WorkloadError(f"{kind} failed on ({given}) with {told(error)}") from error
    if isinstance(output, Tensor):
        raise WorkloadError(f"{kind} returned a tensor for return_dict=False; expected a tuple, samples first")
    drawn = output[0]
    if len(drawn) != len(group):
        few = "" if len(drawn) else f" (are {num_steps} steps too few for this strength?)"
        raise WorkloadError(f"{kind} drew {len(drawn)} samples for {len(group)} prompts; expected one for each{few}")
    return drawn


def _stacked(samples: Tensor) -> Tensor:
    """Clips ``(sample, frame, channel, height, width)`` as ``(sample, channel, frame * height, width)``."""
    return samples.transpose(1, 2).flatten(2, 3) if samples.ndim == 5 and are_pictures(samples) else samples
