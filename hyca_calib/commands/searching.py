"""Search: traces in, plans out, progress on the console."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from hyca_calib.commands.tracing import TRACES
from hyca_calib.costs.budget import Budget, parse_budgets
from hyca_calib.pipelines.load import default_device, load_traced
from hyca_calib.pipelines.workload import Workload
from hyca_calib.records.console import present, say, stages
from hyca_calib.report.front import write_front
from hyca_calib.report.write import write_report
from hyca_calib.search.candidate import Candidate
from hyca_calib.search.error_damping import with_damping
from hyca_calib.search.options import Grain, Refinement, RolloutLimits, SearchOptions, Tuning
from hyca_calib.search.presets import PRESETS
from hyca_calib.search.problem import Problem
from hyca_calib.search.replay import Multistep
from hyca_calib.search.run import search, search_preset
from hyca_calib.search.storage import public
from hyca_calib.search.study import JOURNAL, StudyFolder
from hyca_calib.search.tune import tune
from hyca_calib.trace.folder import Folder
from hyca_calib.trace.run_log import run_log
from hyca_calib.trace.store import Trace, newest_trace
from hyca_runtime import load_plan
from hyca_runtime.errors import StudyError, TraceError

__all__ = ["STUDIES", "Limits", "search_plans"]

STUDIES = Path("studies")


@dataclass(frozen=True)
class Limits:
    """Options of one search; minutes for `confirm` and `refine`, seconds for `timeout`.

    Attributes:
        probes: full runs that measure how errors are damped; 0 for none.
        rollouts, iterations: ends of `confirm` and `refine` that do not depend on the machine's speed.
        preset: "best" searches; any other is a published recipe, and only `multistep` matters to it.
        storage: where workers share trials and rollouts, see `open_study`; None for the study's own folder.
        workers: how many processes make this search at once.
        model, device, download: see `load_traced`.
    """

    trials: int = 40
    timeout: float = 45.0
    confirm: float = 1.0
    refine: float = 5.0
    groups: int | None = None
    taps: Grain = "channel"
    seed: int = 0
    preset: str = "best"
    multistep: Multistep = "anchored"
    rollouts: int | None = None
    iterations: int | None = None
    probes: int = SearchOptions.probes
    storage: str | None = None
    workers: int = 1
    model: str | None = None
    device: str | None = None
    download: bool = False

    @property
    def tuning(self) -> Tuning:
        return Tuning(self.trials, self.timeout, self.groups, self.taps)

    @property
    def options(self) -> SearchOptions:
        return SearchOptions(
            confirmation=RolloutLimits(self.confirm, rollouts=self.rollouts, workers=self.workers),
            refinement=Refinement(self.refine, self.iterations),
            seed=self.seed,
            storage=self.storage,
        )


def search_plans(budgets: str, traces: Sequence[str], limits: Limits, out: Path | None) -> list[Path]:
    """``hyca_calib search``; returns the paths of the plans.

    Args:
        traces: of one workload, at different cache points; empty takes the newest.

    Raises:
        StudyError: unknown preset, or a folder that holds another study.
        TraceError: traces of different models or workloads.
    """
    if limits.preset not in ("best", *PRESETS):
        raise StudyError(f"unknown preset {limits.preset!r}; choose best, {', '.join(PRESETS)}")
    wanted = parse_budgets(budgets)
    recorded = _traces(list(traces) or [str(newest_trace(TRACES))], limits)
    for budget, trace_ in itertools.product(wanted, recorded):  # refuse all before any work is done
        budget.computed_steps(trace_.cost, trace_.num_steps, 3)
    workload = recorded[0].workload()
    for trace_ in recorded[1:]:
        trace_.check_same_samples(recorded[0])
    suffix = "" if limits.preset == "best" else f"-{limits.preset}"
    folder = out or STUDIES / f"{Path(recorded[0].where).stem}-{'-'.join(b.text for b in wanted)}{suffix}"
    folders = [folder if len(wanted) == 1 else folder / budget.text for budget in wanted]
    requests = [_request(recorded, budget, limits) for budget in wanted]
    studies = [StudyFolder.open(where, request) for where, request in zip(folders, requests, strict=True)]
    if all(study.complete and study.report.exists() for study in studies):
        say(f"{folder}: complete already")
        return [study.plan for study in studies]
    with run_log(
        Folder(folder), {"device": limits.device or default_device(), "storage": public(limits.storage or JOURNAL)}
    ):
        _search_all(recorded, workload, wanted, studies, limits, folder)
    return [study.plan for study in studies]


def _search_all(
    recorded: Sequence[Trace],
    workload: Workload,
    wanted: Sequence[Budget],
    studies: Sequence[StudyFolder],
    limits: Limits,
    folder: Path,
) -> None:
    """Tune all budgets together, then make each study that is not complete."""
    problems = [Problem(trace_) for trace_ in recorded]
    pipe = load_traced(recorded[0].attributes.model, limits.model, limits.device, limits.download)
    candidates: list[dict[Budget, list[Candidate]]] = []
    if limits.preset == "best" and not all(study.complete for study in studies):
        problems = [_damped(pipe, problem, limits, folder) for problem in problems]
        candidates = [_tuned(problem, wanted, limits, folder) for problem in problems]
    for study, budget in zip(studies, wanted, strict=True):
        if not study.complete:
            say(f"budget {budget.text} -> {study.folder}")
            if limits.preset != "best":
                search_preset(pipe, problems[0], budget, study, limits.preset, limits.multistep)
            else:
                with stages(("confirm", "refine")) as tell:
                    search(pipe, [found[budget] for found in candidates], budget, study, limits.options, tell)
        if not study.report.exists():
            plan = load_plan(study.plan)
            chosen = next(trace_ for trace_ in recorded if trace_.point == plan.section.point)
            present(write_report(pipe, study, chosen, workload, plan).table())
        say(f"report: {study.report}")
    if len(studies) > 1:
        page = write_front([(study.plan, load_plan(study.plan)) for study in studies], folder)
        say(f"front: {page}")


def _traces(paths: list[str], limits: Limits) -> list[Trace]:
    """The traces, which must be of one model at different cache points."""
    recorded = [Trace(path) for path in paths]
    models = {trace_.attributes.model.weights_digest for trace_ in recorded}
    points = {str(trace_.point) for trace_ in recorded}
    if len(models) > 1 or len(points) < len(recorded):
        raise TraceError(
            "several traces must be of one model, each at another point; got " + ", ".join(map(str, paths))
        )
    if len(recorded) > 1 and limits.preset != "best":
        raise TraceError(f"preset {limits.preset!r} takes one trace, got {len(recorded)}")
    return recorded


def _damped(pipe: Any, problem: Problem, limits: Limits, folder: Path) -> Problem:
    """The problem with its damping, from real runs."""
    if not limits.probes:
        return problem
    storage = limits.storage or folder / JOURNAL
    with stages(("probe",)) as tell:
        found = with_damping(pipe, problem, storage, limits.probes, lambda share: tell("probe", share, ""))
        tell("probe", 1.0, f"{problem.trace.point}: {100 * found.damping[1]:.0f} % of an early error is left")
    return found


def _tuned(problem: Problem, budgets: Sequence[Budget], limits: Limits, folder: Path) -> dict[Budget, list[Candidate]]:
    """Candidates for every budget on one trace, from one Optuna study in `folder`."""
    begun = time.monotonic()
    with stages(("tune",)) as tell:

        def tried(trial: int, cost: float) -> None:
            spent = (time.monotonic() - begun) / max(limits.timeout, 1e-9)
            tell("tune", max((trial + 1) / limits.trials, spent), f"{problem.trace.point}: cost {cost:.3e}")

        storage = limits.storage or folder / JOURNAL
        found = tune(problem, budgets, limits.tuning, storage, limits.seed, tried)
        tell("tune", 1.0, f"{problem.trace.point}: {len(found[budgets[0]])} schedules")
    return found


def _request(traces: Sequence[Trace], budget: Budget, limits: Limits) -> dict[str, Any]:
    lasting = replace(limits, storage=None, workers=1, device=None, model=None, download=False)
    wanted = asdict(lasting)  # who works on it, and where, does not change it
    return {"traces": [t.where for t in traces], "budget": budget.text, "limits": wanted}
