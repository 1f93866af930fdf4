"""Which samples a command works on, and how many at a time."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hyca_calib.demo import DEMOS, demo_prompts
from hyca_calib.pipelines.builtin_prompts import builtin_prompts
from hyca_calib.pipelines.prompts import read_prompts
from hyca_calib.pipelines.workload import Workload
from hyca_calib.records.origins import origins
from hyca_runtime.errors import PlanError, WorkloadError


def prompts_of(model: str, path: Path | None, builtin: str | None = None) -> tuple[dict[str, Any], ...]:
    """The prompts in the file at `path`; without one those of an embedded model, or of a built-in kind."""
    if path is not None:
        return read_prompts(path)
    if model not in DEMOS and builtin is not None:
        return builtin_prompts(builtin)
    if model not in DEMOS:
        raise WorkloadError(f"model {model!r} has no prompts of its own; give --prompts FILE")
    return demo_prompts(model)


def workload_of(facts: dict[str, Any], model: str, prompts: Path | None, steps: int | None = None) -> Workload:
    """The workload a trace or a plan was made on, its prompts read again.

    Args:
        steps: which one of a plan that is merged from plans for other numbers of steps.
    """
    return workload_on(facts, lambda builtin: prompts_of(model, prompts, builtin), steps)


def workload_on(
    facts: dict[str, Any], calls: Callable[[str | None], tuple[dict[str, Any], ...]], steps: int | None = None
) -> Workload:
    """As `workload_of`, of prompts that the caller has.

    Args:
        calls: gives them; told the built-in kind, if it was made on such.
    """
    try:
        origin = _only(facts, steps)
        made, builtin = origin["workload"], origin.get("prompts")
        drawn = calls(builtin if isinstance(builtin, str) else None)
        workload = Workload(drawn, made["num_samples"], made["num_steps"], made["seed"])
    except (AttributeError, KeyError, TypeError) as error:
        raise PlanError("it does not say which workload it was made on; measure a plan of a search") from error
    if workload.digest != made["digest"]:
        raise WorkloadError("these are not the prompts it was made on; give the same ones, as by --prompts")
    return workload


def _only(facts: dict[str, Any], steps: int | None) -> Mapping[str, Any]:
    """What `facts` say of the workload; of several the one of so many steps."""
    made = {origin["workload"]["digest"]: origin for origin in origins(facts) or [{}]}
    if len(made) > 1:
        counts = " and ".join(str(origin["workload"]["num_steps"]) for origin in made.values())
        made = {digest: origin for digest, origin in made.items() if origin["workload"]["num_steps"] == steps}
        if len(made) != 1:
            which = "say which of them with --steps" if steps is None else f"{steps} are none of them"
            raise PlanError(f"it is merged from plans for {counts} steps; {which}")
    return next(iter(made.values()))


def batch_of(model: str, batch: int | None) -> int:
    """How many samples a pipeline call draws unless the user says."""
    return batch or (8 if model in DEMOS else 1)
