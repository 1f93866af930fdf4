"""How well a method does, and which settings of it deserve a closer look."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from hyca_calib.evaluate import Run, run_untimed
from hyca_calib.metrics import compare_images
from hyca_calib.peers.base import Peer
from hyca_calib.workload import Job

__all__ = ["Score", "exact_psnr", "joined", "reason", "score", "score_or_error", "undominated"]


@dataclass(frozen=True)
class Score:
    """One setting of one method, sample by sample.

    Attributes:
        flops_ratio: FLOPs of the full run over its own; 0 if it failed.
        psnr_db, ssim: agreement with the full run.
        exact_db: PSNR to a run of many more steps, for the samples that have one.
        error: why there are no figures.
    """

    method: str
    family: str
    flops_ratio: float
    psnr_db: tuple[float, ...]
    ssim: tuple[float, ...]
    exact_db: tuple[float, ...] = ()
    error: str = ""

    @property
    def mean_db(self) -> float:
        return statistics.fmean(self.psnr_db)

    @property
    def mean_exact_db(self) -> float:
        return statistics.fmean(self.exact_db)


def score(pipe: Any, peer: Peer, jobs: Sequence[Job], batch: int, full: Run, exact: Tensor | None = None) -> Score:
    """Sample `jobs` with `peer`, once.

    Args:
        full: the full run of `jobs`.
        exact: pictures of the first of `jobs`, from a run of many more steps.

    Raises:
        ValueError: pictures that are no numbers.
    """
    run = run_untimed(pipe, jobs, peer.steps, batch, peer.applied)
    if not run.images.isfinite().all():
        raise ValueError("the pictures hold NaN or infinity")
    near = compare_images(run.images, full.images, run.latents, full.latents)
    exact_db = () if exact is None else exact_psnr(run.images, exact)
    return Score(peer.name, peer.family, full.flops / run.flops, near.psnr_db, near.ssim, exact_db)


def exact_psnr(images: Tensor, exact: Tensor) -> tuple[float, ...]:
    """PSNR in dB of the first of `images` to their exact pictures, which are fewer or as many."""
    first = images[: len(exact)]
    return compare_images(first, exact, first, exact).psnr_db


def score_or_error(
    pipe: Any, peer: Peer, jobs: Sequence[Job], batch: int, full: Run, exact: Tensor | None = None
) -> Score:
    """As `score`; of a peer that raises, the error."""
    try:
        return score(pipe, peer, jobs, batch, full, exact)
    except Exception as error:  # foreign code may raise anything
        return Score(peer.name, peer.family, 0.0, (), (), error=reason(error))


def reason(error: Exception) -> str:
    """An error in one line."""
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')[:120]}"


def joined(one: Score, other: Score) -> Score:
    """The same method on the samples of both."""
    return replace(
        one,
        psnr_db=one.psnr_db + other.psnr_db,
        ssim=one.ssim + other.ssim,
        exact_db=one.exact_db + other.exact_db,
        error=one.error or other.error,
    )


def undominated(scores: Sequence[Score], margin_db: float = 0.0) -> list[Score]:
    """Those that worked, without settings that spend as much as one of their family that is better by the margin."""
    worked = [s for s in scores if not s.error]

    def beaten(one: Score) -> bool:
        return any(
            other.family == one.family
            and other.flops_ratio >= one.flops_ratio
            and other.mean_db > one.mean_db + margin_db
            for other in worked
        )

    return [one for one in worked if not beaten(one)]
