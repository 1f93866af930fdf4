"""The final latents of a section of a plan, as candidates are judged by them."""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
from torch import Tensor

from hyca_calib.pipelines.rollout import followed, sample_latents
from hyca_calib.quality.metrics import log_error
from hyca_calib.search.problem import Samples
from hyca_runtime.compiled_plan import OnMismatch
from hyca_runtime.errors import ForecastWarning
from hyca_runtime.network_plan import NetworkPlan
from hyca_runtime.plan import Plan

LOST = 4.0
"""Squared error of a picture in [-1, 1] that could not be worse: 0 dB."""


def log_errors(
    pipe: Any, section: NetworkPlan, samples: Samples, batch: int | None = None, on_mismatch: OnMismatch = "error"
) -> Tensor:
    """Log squared error of each sample's final latent, float64 ``(job,)``, on the CPU.

    The runtime computes what it cannot forecast; here a forecast of NaN or infinity is worth `LOST` instead.

    Args:
        batch: samples in one call; default: all.
    """
    plan, count = Plan(name="candidate", sections=(section,)), len(samples.jobs)
    lost = torch.full((count,), LOST, dtype=torch.float64).log()
    with warnings.catch_warnings():
        warnings.simplefilter("error", ForecastWarning)
        try:
            with followed(pipe, plan, on_mismatch):
                latents = sample_latents(pipe, samples.jobs, samples.num_steps, batch or count)
        except ForecastWarning:
            return lost
    found = log_error(latents, samples.latents.to(latents.device)).double().cpu()
    return torch.where(found.isfinite(), found, lost)


def rollout_psnr(pipe: Any, section: NetworkPlan, samples: Samples) -> float:
    """PSNR in dB of the final latents under `section`, from the mean log error over `samples`."""
    return to_db(log_errors(pipe, section, samples).mean().item())


def to_db(log_mse: float) -> float:
    """Mean log squared error of pictures in [-1, 1] (peak-to-peak 2) as PSNR in dB."""
    return 10 * math.log10(4) - 10 * log_mse / math.log(10)
