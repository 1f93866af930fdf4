"""The final latents of a section of a plan, as candidates are judged by them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from hyca_calib.pipelines.rollout import sample_latents
from hyca_calib.pipelines.workload import Job
from hyca_calib.quality.metrics import log_error
from hyca_runtime import apply_plan
from hyca_runtime.compiled_plan import OnMismatch
from hyca_runtime.errors import ForecastWarning
from hyca_runtime.plan import NetworkPlan, Plan

__all__ = ["LOST", "log_errors"]

LOST = 4.0
"""Squared error of a picture in [-1, 1] that could not be worse: 0 dB."""


def log_errors(
    pipe: Any,
    section: NetworkPlan,
    jobs: Sequence[Job],
    goal: Tensor,
    num_steps: int,
    batch: int | None = None,
    on_mismatch: OnMismatch = "error",
) -> Tensor:
    """Log squared error of each sample's final latent, float64 ``(job,)``, on the CPU.

    The runtime computes what it cannot forecast; here a forecast of NaN or infinity is worth `LOST` instead.

    Args:
        goal: final latents of the full runs ``(job, ...)``.
        batch: samples in one call; default: all.
    """
    plan = Plan(name="candidate", sections=(section,))
    lost = torch.full((len(jobs),), LOST, dtype=torch.float64).log()
    with warnings.catch_warnings():
        warnings.simplefilter("error", ForecastWarning)
        try:
            with apply_plan(pipe, plan, on_mismatch):
                latents = sample_latents(pipe, jobs, num_steps, batch or len(jobs))
        except ForecastWarning:
            return lost
    found = log_error(latents, goal.to(latents.device)).double().cpu()
    return torch.where(found.isfinite(), found, lost)
