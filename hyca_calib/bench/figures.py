"""Figures of one method, against the model's own full run of the same samples."""

import statistics
from dataclasses import dataclass

from torch import Tensor

from hyca_calib.quality.evaluate import Fidelity, SampledRun
from hyca_calib.quality.metrics import agreement


@dataclass(frozen=True, kw_only=True)
class Figures(Fidelity):
    """One method against the full run, on the test split.

    Attributes:
        exact_db: mean agreement of the first samples with a run of many more steps.
    """

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


def figures_of(run: SampledRun, full: SampledRun, exact: Tensor | None = None) -> Figures:
    """Figures of a run, from the full one of the same samples and the exact solution of the first of them."""
    exact_db = None if exact is None else statistics.fmean(agreement(run.images[: len(exact)], exact))
    return Figures.of(run, full, exact_db=exact_db)
