"""What one run of ``hyca demo`` took and reached, kept where documents find it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from pydantic import TypeAdapter

from hyca_calib.quality.evaluate import Evaluation
from hyca_calib.records.atomic import write_text

__all__ = ["DEMO_RUN", "DemoRun"]

DEMO_RUN = Path("studies/bench/demo-run.json")
"""Below the root of the repository."""


@dataclass(frozen=True)
class DemoRun:
    """The main job, from the trace to the report.

    Attributes:
        facts: `provenance` of the run.
        budget: as on the command line.
        minutes: everything, by the clock.
        result: the plan on the test split.
    """

    facts: dict[str, Any]
    budget: str
    minutes: float
    result: Evaluation

    def write(self, path: Path) -> None:
        """One JSON object: the facts, and beside them the rest."""
        own = {"budget": self.budget, "minutes": self.minutes, "result": asdict(self.result)}
        write_text(path, json.dumps({**self.facts, **own}, indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> Self:
        """The inverse."""
        facts = json.loads(path.read_text())
        budget, minutes, result = (facts.pop(name) for name in ("budget", "minutes", "result"))
        return cls(facts, budget, minutes, TypeAdapter(Evaluation).validate_python(result))
