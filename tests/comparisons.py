"""Small comparisons of methods on the tiny pipeline."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import tiny

from hyca_calib.baselines import Axis, Family, Settings
from hyca_calib.bench.comparison import Comparison
from hyca_calib.bench.isolation import CleanPipeline
from hyca_calib.bench.notebook import Notebook
from hyca_calib.bench.results import BenchFacts
from hyca_calib.pipelines.workload import Workload
from hyca_calib.records.provenance import provenance

STEPS = 12


def fewer_steps(name: str = "fewer steps", counts: tuple[int, ...] = (3, 4, 6, 9)) -> Family:
    def untouched(pipe: Any, settings: Settings) -> Any:
        return nullcontext()

    axes = (Axis("calls", counts, closed=True),)
    return Family(name, "ours", axes, untouched, STEPS, steps=lambda settings: int(settings["calls"]))


def comparison(workload: Workload, families: list[Family], notebook: Notebook | None = None) -> Comparison:
    clean = CleanPipeline(tiny.pipeline, workload.of("fit")[0])
    return Comparison.of(clean, workload, 4, families, None, notebook)


def facts_of(workload: Workload) -> BenchFacts:
    """Facts of a comparison on the tiny pipeline."""
    own = {"model": "tiny:pipeline", "workload": workload.describe(), "batch": 4, "weights": "0"}
    return BenchFacts.model_validate({**provenance("cpu").model_dump(), **own})
