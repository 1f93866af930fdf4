"""What lanes reach, as the file that is committed."""

from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel

from hyca_calib.lanes.choosing import Confirmed
from hyca_calib.lanes.measure import LaneRow
from hyca_calib.pipelines.workload import WorkloadSummary
from hyca_calib.records.atomic import write_text
from hyca_calib.records.provenance import Provenance

LANES_RESULTS, LANES_PICTURE, LANES_PAGE = "lanes.json", "lanes.png", "lanes.md"


class Starts(BaseModel, frozen=True):
    """Where lanes that compute all begin, and the surrogate's error in dB under that of the published starts."""

    way: str
    starts: tuple[int, ...]
    passes: int
    surrogate_db: float


class LanesTable(BaseModel, frozen=True):
    """What `hyca bench lanes` found; nothing in it is a time.

    Attributes:
        weights: digest of the network's.
        trace: the name of the one that rows were fitted on.
        groups: of every test sample, which prompt it has.
        confirmed: what was rolled out on the select split, of which the best for each wall are among the rows.
        rows: of the test split.
        command: that made it.
    """

    model: str
    weights: str
    trace: str
    scheduler: str
    num_steps: int
    groups: tuple[int, ...]
    workload: WorkloadSummary
    starts: tuple[Starts, ...]
    confirmed: tuple[Confirmed, ...]
    rows: tuple[LaneRow, ...]
    command: str
    made: Provenance

    def write(self, folder: Path) -> None:
        """Write ``lanes.json``."""
        write_text(folder / LANES_RESULTS, self.model_dump_json(indent=1) + "\n")


def read_lanes(path: Path) -> LanesTable:
    """The table in a folder, or in its file."""
    return LanesTable.model_validate_json((path / LANES_RESULTS if path.is_dir() else path).read_text())


def with_best(rows: Sequence[LaneRow]) -> list[LaneRow]:
    """The rows by computed passes, those marked that no other beats."""
    ordered = sorted(rows, key=lambda row: (row.computed_passes, -row.mean_db))
    found, highest = list[LaneRow](), float("-inf")
    for row in ordered:
        found.append(row.model_copy(update={"best": row.mean_db > highest}))
        highest = max(highest, row.mean_db)
    return found
