"""Learning curves as values and as the file that is committed, and what they tell."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydantic import BaseModel

from hyca_calib.quality.metrics import interval
from hyca_calib.records.provenance import Provenance

WORTH_DB = 0.2
"""What four times the iterations or the prompts must gain for more of them to be worth it."""


class CurvePoint(BaseModel, frozen=True):
    """A plan refined for so long on so many prompts.

    Attributes:
        prompts: samples it was refined on; beyond those of the trace, which have a prompt each, with fresh noise.
        iterations: of gradient descent; 0 before any.
        calls: computed network calls of single samples, a backward one counted as two.
        fit_db, select_db, test_db: agreement of the final latents with those of full runs, sample by sample; of the fit
            split the same few samples in all points.
    """

    prompts: int
    iterations: int
    calls: int
    fit_db: tuple[float, ...]
    select_db: tuple[float, ...]
    test_db: tuple[float, ...]


class Curves(Provenance, frozen=True):
    """All points of one model and budget.

    Attributes:
        command: that made the file.
        point: where the plan caches.
        groups: of every test sample, which prompt it has.
        batch: fit samples of an iteration.
    """

    command: str
    model: str
    budget: str
    point: str = "trunk"
    flops_ratio: float
    computed_steps: tuple[int, ...]
    groups: tuple[int, ...]
    batch: int
    points: tuple[CurvePoint, ...] = ()

    def at(self, prompts: int, iterations: int) -> CurvePoint | None:
        """The point that was measured there, if one was."""
        return next((p for p in self.points if (p.prompts, p.iterations) == (prompts, iterations)), None)

    @property
    def longest(self) -> CurvePoint:
        """With the most prompts, and of these with the most iterations."""
        return max(self.points, key=lambda point: (point.prompts, point.iterations))


def read_curves(path: Path) -> Curves:
    """The curves in a file."""
    return Curves.model_validate_json(path.read_text())


def gain(better: Sequence[float], worse: Sequence[float], groups: Sequence[int]) -> tuple[float, float, float]:
    """Mean difference in dB sample by sample, and its 95 % interval, prompts resampled."""
    return interval(np.subtract(better, worse).tolist(), groups=groups)


def verdict(curves: Curves) -> str:
    """What binds, by what the last four-fold of iterations and of prompts gained on the test split.

    A gain counts if its interval lies above zero and its mean is `WORTH_DB` or more.
    """
    last = curves.longest
    found = []
    for what, less in (
        ("optimisation", curves.at(last.prompts, last.iterations // 4)),
        ("data", curves.at(last.prompts // 4, last.iterations)),
    ):
        if less is None:
            found.append(f"{what}: not measured")
            continue
        mean, low, high = gain(last.test_db, less.test_db, curves.groups)
        binds = "binds" if low > 0 and mean >= WORTH_DB else "does not bind"
        found.append(f"{what} {binds}: {mean:+.2f} dB ({low:+.2f} to {high:+.2f})")
    if all("does not bind" in one for one in found):
        found.append("so what the schedule and its rows can say binds")
    return "; ".join(found)
