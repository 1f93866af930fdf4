"""Figures of one method, against the model's own full run of the same samples."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from torch import Tensor

from hyca_calib.quality.evaluate import Run
from hyca_calib.quality.metrics import compare_images

__all__ = ["Figures", "Timing", "figures_of"]


@dataclass(frozen=True)
class Figures:
    """One method against the model's own full run, on the test split.

    Attributes:
        flops_ratio: FLOPs of the full run over the method's, mean over the samples; above 1 is cheaper.
        psnr_db, psnr_db_worst, psnr_db_each: agreement of the pictures, peak 1; mean, least, sample by sample.
        latent_error: squared error of the final latent over the full run's squared norm.
        exact_db: mean PSNR of the first samples to a run of many more steps.
    """

    flops_ratio: float
    psnr_db: float
    psnr_db_worst: float
    ssim: float
    ssim_worst: float
    latent_error: float
    psnr_db_each: tuple[float, ...]
    exact_db: float | None = None


@dataclass(frozen=True)
class Timing:
    """Wall time of one batch, in turn with the full run.

    Attributes:
        wall_ratio: seconds of the full run over the method's, medians.
        peak_bytes: memory beyond what the process held before; None where it cannot be told.
    """

    wall_ratio: float
    peak_bytes: int | None


def figures_of(run: Run, full: Run, exact: Tensor | None = None) -> Figures:
    """A run against the full one of the same samples."""
    near = compare_images(run.images, full.images, run.latents, full.latents)
    exact_db = None
    if exact is not None:
        first = run.images[: len(exact)]
        exact_db = statistics.fmean(compare_images(first, exact, first, exact).psnr_db)
    return Figures(
        flops_ratio=full.flops / run.flops,
        psnr_db=statistics.fmean(near.psnr_db),
        psnr_db_worst=min(near.psnr_db),
        ssim=statistics.fmean(near.ssim),
        ssim_worst=min(near.ssim),
        latent_error=statistics.fmean(near.latent_error),
        psnr_db_each=near.psnr_db,
        exact_db=exact_db,
    )
