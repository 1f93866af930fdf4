"""What a refinement may move instead of taps per channel, and minimise instead of the final latent's log error."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from hyca_calib.pipelines.rollout import sample_latents
from hyca_calib.pipelines.workload import batches
from hyca_calib.quality.metrics import log_error
from hyca_calib.search.assemble import build_section, group_labels
from hyca_calib.search.options import Refinement
from hyca_calib.search.preconditioner import coordinates, drawn_to_groups
from studies.paper.refining.setup import Objective, Parameters, RefinementSetup

PLAIN_TAPS = 2e-3 / Refinement.lr
"""A step of the taps themselves over one of preconditioned coordinates."""
RANKS = (2, 8)
PLAIN_LOSS = 1e3  # Adam does not mind the scale of a loss, its epsilon does


def parameterisations(setup: RefinementSetup) -> dict[str, Parameters]:
    """Name, start and the way to taps ``(predicted step, depth, channel)`` of each."""
    zeros, expand = setup.own_coordinates
    labels = torch.from_numpy(group_labels(setup.section))
    return {
        "1 group": _rows_of_groups(setup, 1),
        "16 groups": _rows_of_groups(setup, 16),
        "channel": (zeros, expand),
        "channel, plain taps": (zeros, lambda theta: setup.start + PLAIN_TAPS * theta),
        "channel, shrunk to 16 groups": drawn_to_groups(expand, labels, zeros.shape),  # what the search refines
        **{f"channel, offsets of rank {rank}": _low_rank(setup, rank) for rank in RANKS},
    }


def _rows_of_groups(setup: RefinementSetup, groups: int) -> Parameters:
    settings = replace(setup.candidate.settings, groups=groups, taps="group")
    section = build_section(replace(setup.candidate, settings=settings))
    return coordinates(setup.context.problem, section, "group")


def _low_rank(setup: RefinementSetup, rank: int) -> Parameters:
    """Offsets ``A B``: `rank` patterns over steps and history, weighed by every channel."""
    zeros, expand = setup.own_coordinates
    rows = zeros.shape[0] * zeros.shape[1]
    generator = torch.Generator().manual_seed(setup.context.seed)
    patterns = torch.randn(rows, rank, generator=generator) / rank**0.5
    theta = torch.cat([patterns, zeros.new_zeros(zeros.shape[2], rank)])
    return theta, lambda t: expand((t[:rows] @ t[rows:].T).view(zeros.shape))


def losses(setup: RefinementSetup) -> dict[str, Callable[[], Objective] | None]:
    """Makers of objectives by name; None is the default, the mean log error of the final latent."""
    pipe, fit = setup.context.pipe, setup.fit

    def latents_of(chosen: list[int]) -> Tensor:
        return sample_latents(pipe, fit[chosen].jobs, fit.num_steps, len(chosen), with_grad=True)

    def plain() -> Objective:
        return lambda chosen: PLAIN_LOSS * (latents_of(chosen) - fit.latents[chosen]).square().mean()

    def picture() -> Objective:
        return lambda chosen: log_error(latents_of(chosen).clamp(-1, 1), fit.latents[chosen].clamp(-1, 1)).mean()

    def every_step() -> Objective:
        full = _full_paths(setup)

        def objective(chosen: list[int]) -> Tensor:
            with _steps(pipe.scheduler) as path:
                latents_of(chosen)
            first = setup.section.schedule.predicted_steps[0]  # until then both paths are one
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


def _full_paths(setup: RefinementSetup) -> list[Tensor]:
    """Latents ``(job, ...)`` of all fit samples after each step of the full run."""
    pieces = []
    for jobs in batches(setup.fit.jobs, 8):
        with _steps(setup.context.pipe.scheduler) as path:
            sample_latents(setup.context.pipe, jobs, setup.fit.num_steps, len(jobs))
        pieces.append(path)
    return [torch.cat(parts) for parts in zip(*pieces, strict=True)]
