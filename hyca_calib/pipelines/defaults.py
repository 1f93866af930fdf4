"""Which samples a command works on, and how many at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hyca_calib.demo import DEMOS, demo_prompts
from hyca_calib.pipelines.prompts import read_prompts
from hyca_calib.pipelines.workload import Workload
from hyca_runtime.errors import PlanError, WorkloadError


def prompts_of(model: str, path: Path | None) -> tuple[dict[str, Any], ...]:
    """The prompts in the file at `path`; without one those of an embedded model."""
    if path is not None:
        return read_prompts(path)
    if model not in DEMOS:
        raise WorkloadError(f"model {model!r} has no prompts of its own; give --prompts FILE")
    return demo_prompts(model)


def workload_of(facts: dict[str, Any], model: str, prompts: Path | None) -> Workload:
    """The workload a trace or a plan was made on, its prompts read again."""
    try:
        made = facts["workload"]
        workload = Workload(prompts_of(model, prompts), made["num_samples"], made["num_steps"], made["seed"])
    except (KeyError, TypeError) as error:
        raise PlanError(f"it does not say which workload it was made on: {error} is missing") from error
    if workload.digest != made["digest"]:
        raise WorkloadError("these are not the prompts it was made on; give the same --prompts file")
    return workload


def batch_of(model: str, batch: int | None) -> int:
    """How many samples a pipeline call draws unless the user says."""
    return batch or (8 if model in DEMOS else 1)
