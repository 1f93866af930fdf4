"""What a refinement may move instead of taps per channel, and minimise instead of the final latent's log error."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from hyca_calib.pipelines.rollout import sample_latents
from hyca_calib.quality.metrics import log_error
from hyca_calib.search.assemble import build_section, group_labels
from hyca_calib.search.options import Refinement
from hyca_calib.search.preconditioner import coordinates, drawn_to_groups
from studies.paper.loop.refinement_setup import Objective, Parameters, RefinementSetup

PLAIN_TAPS = 2e-3 / Refinement.lr
"""A step of the taps themselves over one of preconditioned coordinates."""
RANKS = (2, 8)
PLAIN_LOSS = 1e3  # Adam does not mind the scale of a loss, its epsilon does


def parameterisations(setup: RefinementSetup) -> dict[str, Parameters]:
    """Name, start and the way to taps ``(predicted step, depth, channel)`` of each."""
    found: dict[str, Parameters] = {}
    for groups in (1, 16):
        found[f"{groups} group{'s' * (groups > 1)}"] = _rows_of_groups(setup, groups)
    found["channel"] = setup.own_coordinates
    found["channel, plain taps"] = torch.zeros_like(setup.start), lambda theta: setup.start + PLAIN_TAPS * theta
    found["channel, shrunk to 16 groups"] = _shrunk(setup)
    for rank in RANKS:
        found[f"channel, offsets of rank {rank}"] = _low_rank(setup, rank)
    return found


def _rows_of_groups(setup: RefinementSetup, groups: int) -> Parameters:
    candidate = replace(setup.candidate, settings=replace(setup.candidate.settings, groups=groups, taps="group"))
    return coordinates(setup.context.problem, build_section(candidate), "group")


def _shrunk(setup: RefinementSetup) -> Parameters:
    """What the search refines."""
    zeros, expand = setup.own_coordinates
    return drawn_to_groups(expand, torch.from_numpy(group_labels(setup.section)), zeros.shape)


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
    pipe, steps = setup.context.pipe, setup.context.problem.workload.num_steps

    def latents_of(chosen: list[int]) -> Tensor:
        return sample_latents(pipe, [setup.fit.jobs[i] for i in chosen], steps, len(chosen), with_grad=True)

    def plain() -> Objective:
        return lambda chosen: PLAIN_LOSS * (latents_of(chosen) - setup.fit.latents[chosen]).square().mean()

    def picture() -> Objective:
        return lambda chosen: log_error(latents_of(chosen).clamp(-1, 1), setup.fit.latents[chosen].clamp(-1, 1)).mean()

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
    pipe, jobs = setup.context.pipe, setup.fit.jobs
    for i in range(0, len(jobs), 8):
        with _steps(pipe.scheduler) as path:
            sample_latents(pipe, jobs[i : i + 8], setup.context.problem.workload.num_steps, 8)
        pieces.append(path)
    return [torch.cat(parts) for parts in zip(*pieces, strict=True)]
