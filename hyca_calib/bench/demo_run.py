"""What one run of ``hyca demo`` took and reached, kept where documents find it."""

from __future__ import annotations

from pathlib import Path

from hyca_calib.quality.evaluate import Evaluation
from hyca_calib.records.provenance import Provenance

__all__ = ["DEMO_RUN", "DemoRun"]

DEMO_RUN = Path("studies/bench/demo-run.json")
"""Below the root of the repository."""


class DemoRun(Provenance, frozen=True):
    """The main job, from the trace to the report.

    Attributes:
        budget: as on the command line.
        minutes: everything, by the clock.
        result: the plan on the test split.
    """

    budget: str
    minutes: float
    result: Evaluation
