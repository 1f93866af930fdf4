"""Whether all prompts of a workload make the network be called alike, as a trace needs it: seen before it begins."""

import json
from collections.abc import Callable, Sequence
from typing import Any

from hyca_calib.pipelines.media import named
from hyca_calib.pipelines.workload import BATCHED, Job, Workload
from hyca_calib.trace.recording import Recording
from hyca_runtime.errors import TraceError


def kinds(jobs: Sequence[Job]) -> list[Job]:
    """The first of each kind of call: with the same arguments, and of these the same numbers."""
    found: dict[str, Job] = {}
    for job in jobs:
        found.setdefault(json.dumps(_deciding(job), sort_keys=True), job)
    return list(found.values())


def check_alike(workload: Workload, first: Recording, probe: Callable[[Job], Recording]) -> None:
    """Raises TraceError if a kind of call shows another layout than the first.

    Args:
        first: a short run of the workload's first samples.
        probe: makes such a run of one sample.
    """
    reference, *others = kinds(workload.jobs)
    for job in others:
        seen = probe(job).common
        differs = [name for name, value in first.common.items() if seen[name] != value]
        if differs:
            own, other = _deciding(reference), _deciding(job)
            names = sorted(name for name in own | other if own.get(name, job) != other.get(name, job))
            one, two = (
                f"{_told(differs[0], common)} of prompt {_number(workload, of)} ({_arguments(of, names)})"
                for common, of in ((first.common, reference), (seen, job))
            )
            raise TraceError(
                f"expected prompts that all make the network be called alike, got {differs[0]} {one} and {two}; trace "
                "the prompts of each kind on their own, into a trace of their own (--prompts, --out)"
            )


def _deciding(job: Job) -> dict[str, Any]:
    """What of a call may decide how the network is called: its numbers, and of what else there is the kind."""
    return {name: type(value).__name__ if name in BATCHED else _kind(value) for name, value in job.call.items()}


def _kind(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    return [_kind(inner) for inner in value] if isinstance(value, list | tuple) else type(value).__name__


def _number(workload: Workload, job: Job) -> int:
    return 1 + workload.prompts.index(job.call)


def _arguments(job: Job, names: Sequence[str]) -> str:
    return ", ".join(f"{name}={named(job.call[name])}" if name in job.call else f"no {name}" for name in names)


def _told(name: str, common: dict[str, Any]) -> str:
    if name != "guidance branches":
        return str(common[name])
    branches, _ = common[name]
    return " and ".join(repr(branch) for branch in branches)
