"""What the bench found, as values and as the file that is committed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from hyca_calib.atomic import write_text
from hyca_calib.bench.quality import Quality
from hyca_calib.bench.sweep import Sweep
from hyca_calib.peers.base import Settings

__all__ = ["OURS", "RESULTS", "Bench", "Figures", "Row", "Timing", "read_bench"]

OURS = "HyCa"
"""The family of our plans."""
RESULTS = "bench.json"


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
