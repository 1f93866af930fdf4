"""What a refinement may minimise instead of the log error of the final latent."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from hyca_calib.metrics import log_error
from hyca_calib.rollout import sample_latents
from studies.paper.loop.bed import Bed

__all__ = ["losses"]

Objective = Callable[[list[int]], Tensor]
PLAIN = 1e3  # Adam does not mind the scale of a loss, its epsilon does


def losses(bed: Bed) -> dict[str, Callable[[], Objective] | None]:
    """Makers of objectives by name; None is the default, the mean log error of the final latent."""
    pipe, steps = bed.context.pipe, bed.context.problem.inference_steps

    def latents_of(chosen: list[int]) -> Tensor:
        return sample_latents(pipe, [bed.fit.jobs[i] for i in chosen], steps, len(chosen), with_grad=True)

    def plain() -> Objective:
        return lambda chosen: PLAIN * (latents_of(chosen) - bed.fit.latents[chosen]).square().mean()

    def picture() -> Objective:
        return lambda chosen: log_error(latents_of(chosen).clamp(-1, 1), bed.fit.latents[chosen].clamp(-1, 1)).mean()

    def every_step() -> Objective:
        full = _full_paths(bed)

        def objective(chosen: list[int]) -> Tensor:
            with _steps(pipe.scheduler) as path:
                latents_of(chosen)
            first = bed.section.schedule.predicted_steps[0]  # until then both paths are one
            pairs = zip(path[first:], full[first:], strict=True)
            return torch.stack([log_error(ours, goal[chosen]) for ours, goal in pairs]).mean()

        return objective

    return {
        "final latent, log": None,
        "final latent, plain": plain,
        "clipped picture, log": picture,
        "latents of every step, log": every_step,
    }


@contextlib.contextmanager
def _steps(scheduler: Any) -> Iterator[list[Tensor]]:
    """The latents that the scheduler returns, step by step."""
    path: list[Tensor] = []
    inner = scheduler.step

    def step(*args: Any, **kwargs: Any) -> Any:
        result = inner(*args, **kwargs)
        path.append((result[0] if isinstance(result, tuple) else result.prev_sample).float())
        return result

    scheduler.step = step
    try:
        yield path
    finally:
        del scheduler.step


def _full_paths(bed: Bed) -> list[Tensor]:
    """Latents ``(job, ...)`` of all fit samples after each step of the full run."""
    pieces = []
    pipe, jobs = bed.context.pipe, bed.fit.jobs
    for i in range(0, len(jobs), 8):
        with _steps(pipe.scheduler) as path:
            sample_latents(pipe, jobs[i : i + 8], bed.context.problem.inference_steps, 8)
        pieces.append(path)
    return [torch.cat(parts) for parts in zip(*pieces, strict=True)]
