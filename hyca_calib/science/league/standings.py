"""What the measurements say about one budget."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from hyca_calib.budget import Budget
from hyca_calib.peers.score import Score
from hyca_calib.science.chapter import Table, interval
from hyca_calib.science.league.rivals import best_of, dearer, equal

__all__ = ["Standing", "table", "told"]


@dataclass(frozen=True)
class Standing:
    """Our plan for one budget on the test split, and what it meets there.

    Attributes:
        presets: published recipes at this budget.
        peers: all measured settings of peers, at whatever cost.
        seed: of the bootstrap.
    """

    budget: Budget
    ours: Score
    presets: tuple[Score, ...]
    peers: tuple[Score, ...]
    seed: int

    def ahead(self, other: Score) -> tuple[float, float, float]:
        """Our PSNR to the full run less the other's, sample by sample: mean and 95 % interval."""
        return interval(np.subtract(self.ours.psnr_db, other.psnr_db).tolist(), self.seed)

    def exact_ahead(self, other: Score) -> tuple[float, float, float]:
        """As `ahead`, of PSNR to the exact run."""
        return interval(np.subtract(self.ours.exact_db, other.exact_db).tolist(), self.seed)

    @property
    def best_equal(self) -> Score | None:
        return best_of(self.peers, equal(self.ours))

    @property
    def best_dearer(self) -> Score | None:
        return best_of(self.peers, dearer(self.ours))

    @property
    def most_exact(self) -> Score | None:
        """The peer of equal cost that comes closest to the exact run."""
        return best_of(self.peers, equal(self.ours), lambda score: score.mean_exact_db)

    @property
    def best_hyca(self) -> Score | None:
        """The best form of HyCa's own recipe."""
        forms = (score for score in self.presets if score.method.startswith("preset hyca"))
        return max(forms, key=lambda score: score.mean_db, default=None)


def table(standing: Standing) -> Table:
    """Our plan, the recipes, and of each family the best setting of equal and of whatever cost."""
    ours = standing.ours
    shown: dict[str, tuple[Score, str]] = {score.method: (score, "budget") for score in standing.presets}
    for family in dict.fromkeys(score.family for score in standing.peers):
        settings = [score for score in standing.peers if score.family == family]
        for cost, best in (("dearer", best_of(settings, dearer(ours))), ("equal", best_of(settings, equal(ours)))):
            if best is not None:
                shown[best.method] = (best, cost)
    others = sorted(shown.values(), key=lambda pair: -pair[0].mean_db)
    caption = f"Budget {standing.budget.text}: mean and 95 % interval over {len(ours.psnr_db)} test samples."
    head = ("method", "cost", "FLOPs ratio", "PSNR, dB", "SSIM", "ours above it, dB", "exact, dB")
    return Table(caption, head, tuple(_row(standing, *pair) for pair in ((ours, "budget"), *others)))


def _row(standing: Standing, score: Score, cost: str) -> tuple[str | float, ...]:
    ahead = "" if score is standing.ours else told(standing.ahead(score), "+")
    psnr, ssim = told(interval(score.psnr_db, standing.seed)), f"{np.mean(score.ssim):.4f}"
    return (score.method, cost, score.flops_ratio, psnr, ssim, ahead, round(score.mean_exact_db, 2))


def told(values: Iterable[float], sign: str = "") -> str:
    """``12.34 (12.10 to 12.58)``."""
    mean, low, high = (f"{value:{sign}.2f}" for value in values)
    return f"{mean} ({low} to {high})"
