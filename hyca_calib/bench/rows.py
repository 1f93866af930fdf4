"""What the bench found, as values and as the file that is committed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from hyca_calib.baselines.base import Settings
from hyca_calib.bench.figures import Figures, Timing
from hyca_calib.bench.quality import Quality
from hyca_calib.bench.sweep import Sweep
from hyca_calib.records.atomic import write_text

__all__ = ["OURS", "RESULTS", "Bench", "Row", "read_bench"]

OURS = "HyCa"
"""The family of our plans."""
RESULTS = "bench.json"


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        settings: what makes the method again, with its family; of our plans their file beside the table.
        steps: what the pipeline is called with.
        note: what the method left behind, if anything.
    """

    method: str
    family: str
    ours: bool
    result: Figures | None
    settings: Settings = field(default_factory=dict)
    steps: int = 0
    quality: Quality | None = None
    timing: Timing | None = None
    error: str = ""
    note: str = ""


@dataclass(frozen=True)
class Bench:
    """A whole comparison.

    Attributes:
        facts: model, workload, device, commit, versions and so on.
        groups: of every test sample, which prompt it has.
        rows: the full run, rivals, our plans.
        costs: FLOPs ratios at which the best settings were looked for.
        sweeps: what was tried of each family, on few samples of the select split.
        learnt: calibrations of rivals, by name.
    """

    facts: dict[str, Any]
    groups: tuple[int, ...]
    rows: tuple[Row, ...]
    costs: tuple[float, ...] = ()
    sweeps: tuple[Sweep, ...] = ()
    learnt: Mapping[str, Any] = field(default_factory=dict)

    def write(self, folder: Path) -> Path:
        """``bench.json``."""
        path = folder / RESULTS
        write_text(path, TypeAdapter(Bench).dump_json(self, indent=1).decode() + "\n")
        return path


def read_bench(path: Path) -> Bench:
    """The comparison in a folder, or in its file."""
    file = path / RESULTS if path.is_dir() else path
    return TypeAdapter(Bench).validate_json(file.read_text())
