"""The final latents of a section of a plan, as candidates are judged by them."""

import math
import statistics
import warnings
from collections.abc import Sequence
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

STAGES = (0.25, 0.5, 1.0)
"""Shares of the samples after which a rollout may be broken off."""
LEAST = 3
"""Samples that say something of others."""


def log_errors(
    pipe: Any, section: NetworkPlan, samples: Samples, batch: int | None = None, on_mismatch: OnMismatch = "error"
) -> Tensor:
    """Log squared error of each sample's final latent, float64 ``(job,)``, on the CPU.

    The runtime computes what it cannot forecast; here a forecast of NaN or infinity is worth an error as large as the
    full run's range, 0 dB, instead. Where decisions are made by sample, each runs alone.
    """
    plan, lost = Plan(name="candidate", sections=(section, *samples.other_chunks)), samples.log_peak
    with warnings.catch_warnings():
        warnings.simplefilter("error", ForecastWarning)
        try:
            with followed(pipe, plan, on_mismatch):
                size = batch or (1 if plan.decides_by_sample else len(samples.jobs))
                latents = sample_latents(pipe, samples.jobs, samples.num_steps, size)
        except ForecastWarning:
            return lost
    return finite_or_lost(log_error(latents, samples.latents.to(latents.device)), samples)


def finite_or_lost(errors: Tensor, samples: Samples) -> Tensor:
    """Log squared errors, float64 on the CPU; of samples whose latents are not finite that of 0 dB."""
    found = errors.double().cpu()
    return torch.where(found.isfinite(), found, samples.log_peak)


def rollout_psnr(pipe: Any, section: NetworkPlan, samples: Samples) -> float:
    """PSNR in dB of the final latents under `section`, from the mean log error over `samples`."""
    return mean_psnr(log_errors(pipe, section, samples).mean().item(), samples)


def raced_psnr(pipe: Any, section: NetworkPlan, samples: Samples, beat: Sequence[float]) -> list[float]:
    """PSNR in dB of each sample's final latent; of the first quarter or half of the samples, if these show that the
    section is no better than one that has `beat`: behind by more than a standard error of the mean difference."""
    count, found = len(samples.jobs), list[float]()
    ends = sorted({math.ceil(count * share) for share in STAGES}) if beat else [count]
    for end in ends:
        part = samples[len(found) : end]
        errors = log_errors(pipe, section, part).tolist()
        found += [to_db(error, peak) for error, peak in zip(errors, part.log_peak.tolist(), strict=True)]
        if beat and end >= LEAST and is_behind(found, beat):
            break
    return found


def is_behind(one: Sequence[float], other: Sequence[float]) -> bool:
    """Whether the first samples of one are worse than those of another by more than a standard error."""
    behind = [b - a for a, b in zip(one, other, strict=False)]
    return statistics.fmean(behind) > statistics.stdev(behind) / math.sqrt(len(behind))


def mean_psnr(log_mse: float, samples: Samples) -> float:
    """A mean log squared error of the final latents of `samples` as PSNR in dB, their own ranges the peaks."""
    return to_db(log_mse, samples.log_peak.mean().item())


def to_db(log_mse: float, log_peak: float = math.log(4)) -> float:
    """A log squared error as PSNR in dB, by default of pictures in [-1, 1].

    Args:
        log_peak: logarithm of the squared peak, from the least to the largest value.
    """
    return 10 * (log_peak - log_mse) / math.log(10)
