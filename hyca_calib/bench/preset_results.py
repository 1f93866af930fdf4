"""What published recipes reach at every budget, as values and as the file that is committed."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, TypeAdapter

from hyca_calib.bench.figures import Figures
from hyca_calib.costs.budget import Budget
from hyca_calib.pipelines.workload import WorkloadSummary
from hyca_calib.records.atomic import write_text
from hyca_calib.records.provenance import Provenance

PRESET_RESULTS, PRESET_PICTURE = "presets.json", "presets.png"


@dataclass(frozen=True, kw_only=True)
class PresetFigures(Figures):
    """A plan against the full run, sample by sample.

    Attributes:
        worst_tenth_db: mean agreement of the worst tenth of the samples.
        flops_ratio_each: FLOPs of the full run over the plan's, of each sample; `flops_ratio` is that of their sums.
    """

    worst_tenth_db: float
    flops_ratio_each: tuple[float, ...]


@dataclass(frozen=True)
class PresetRow:
    """A recipe at a budget.

    Attributes:
        line: the recipe with its options; of a plan that was searched its name.
        static: whether it is a plan that was searched, and not a recipe's.
        settings: what was asked of the recipe, and what it found; of a static plan its file.
        unmet: why there is no such plan: the budget allows none.
        error: what went wrong.
        made: where the figures are from, or the failure.
    """

    line: str
    budget: str
    static: bool
    made: Provenance
    settings: Mapping[str, Any] = field(default_factory=dict)
    result: PresetFigures | None = None
    unmet: str = ""
    error: str = ""

    @property
    def place(self) -> tuple[str, str]:
        """Line and column of the table."""
        return self.line, self.budget


class PresetFacts(BaseModel, frozen=True):
    """What all rows were measured on.

    Attributes:
        weights: digest of the network's.
        trace: the name of the one that plans were made on.
        batch: samples of a call, where a plan does not decide by sample.
        groups: of every test sample, which prompt it has.
    """

    model: str
    weights: str
    trace: str
    workload: WorkloadSummary
    batch: int
    groups: tuple[int, ...]


@dataclass(frozen=True)
class PresetTable:
    """All recipes at all budgets."""

    facts: PresetFacts
    rows: tuple[PresetRow, ...] = ()

    @property
    def budgets(self) -> list[str]:
        """The columns, the dearest first."""

        def share(text: str) -> float:
            budget = Budget.parse(text)
            return budget.share or (budget.steps or 0) / self.facts.workload.num_steps

        return sorted({row.budget for row in self.rows}, key=share, reverse=True)

    @property
    def lines(self) -> list[str]:
        """The lines; plans that were searched first."""
        return list(dict.fromkeys(row.line for row in sorted(self.rows, key=lambda row: not row.static)))

    @property
    def known(self) -> bool:
        """Whether every row says of which code and day it is."""
        return all(row.made.known for row in self.rows)

    def having(self, row: PresetRow) -> Self:
        """The table with this row, in place of an older one if there is one."""
        known = {one.place: one for one in self.rows}
        return replace(self, rows=tuple((known | {row.place: row}).values()))

    def write(self, folder: Path) -> None:
        """Write ``presets.json``."""
        write_text(folder / PRESET_RESULTS, TypeAdapter(PresetTable).dump_json(self, indent=1).decode() + "\n")


def read_presets(path: Path) -> PresetTable:
    """The table in a folder, or in its file."""
    file = path / PRESET_RESULTS if path.is_dir() else path
    return TypeAdapter(PresetTable).validate_json(file.read_text())


def worst_tenth(values: Sequence[float]) -> float:
    """The mean of the least tenth of the values, rounded up to whole ones."""
    return statistics.fmean(sorted(values)[: math.ceil(len(values) / 10)])
