"""What the bench and the demo found, as values and as the files that are committed."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from hyca_calib.baselines.base import Settings
from hyca_calib.bench.figures import Figures, Timing
from hyca_calib.bench.picture_quality import PictureQuality
from hyca_calib.bench.sweep import Sweep
from hyca_calib.pipelines.workload import WorkloadSummary
from hyca_calib.quality.evaluate import Evaluation
from hyca_calib.records.atomic import write_text
from hyca_calib.records.provenance import Provenance
from hyca_runtime.errors import StudyError

OURS = "HyCa"
"""The family of our plans."""
FULL = "full run"
"""The name of the full run's row, and of its family."""
RESULTS = "bench.json"
DEMO_RUN = Path("studies/bench/demo-run.json")
"""Where documents find a `DemoRun`, below the root of the repository."""


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
    quality: PictureQuality | None = None
    timing: Timing | None = None
    error: str = ""
    note: str = ""


class BenchFacts(Provenance, frozen=True):
    """What a comparison was measured on.

    Attributes:
        weights: digest of the network's.
        only: parts of the names of the families that were asked for; none for all.
        others: what measured the other methods, where their figures are an earlier comparison's.
    """

    model: str
    workload: WorkloadSummary
    batch: int
    weights: str
    only: tuple[str, ...] = ()
    others: Provenance | None = None


@dataclass(frozen=True)
class Bench:
    """A whole comparison.

    Attributes:
        groups: of every test sample, which prompt it has.
        costs: FLOPs ratios at which the best settings were looked for.
        sweeps: what was tried of each family, on few samples of the select split.
    """

    facts: BenchFacts
    groups: tuple[int, ...]
    rows: tuple[Row, ...]
    costs: tuple[float, ...] = ()
    sweeps: tuple[Sweep, ...] = ()
    learnt: Mapping[str, Any] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Write ``bench.json``."""
        write_text(folder / RESULTS, TypeAdapter(Bench).dump_json(self, indent=1).decode() + "\n")


def read_bench(path: Path) -> Bench:
    """The comparison in a folder, or in its file.

    Raises:
        StudyError: there is none, or it is damaged.
    """
    file = path / RESULTS if path.is_dir() else path
    try:
        return TypeAdapter(Bench).validate_json(file.read_bytes())
    except FileNotFoundError as error:
        cure = f"make one first: python -m hyca_calib bench --out {path}"
        raise StudyError(f"{path}: no comparison here; {cure}") from error
    except ValidationError as error:
        raise StudyError(f"{file}: no comparison, or a damaged one; remove it and compare again") from error


class DemoRun(Provenance, frozen=True):
    """What one run of ``hyca demo`` took and reached, from the trace to the report."""

    budget: str
    minutes: float
    result: Evaluation
