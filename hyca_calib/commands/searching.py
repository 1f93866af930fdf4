"""Search: traces in, plans out, progress on the console; and the demo of everything."""

import itertools
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from hyca_calib.bench.results import DemoRun
from hyca_calib.commands.options import STUDIES, TRACES, EvaluateOptions, SearchLimits, TraceOptions
from hyca_calib.commands.plans import evaluate_file, report
from hyca_calib.commands.tracing import trace_model
from hyca_calib.costs.budget import Budget, parse_budgets
from hyca_calib.pipelines.load import default_device, load_traced
from hyca_calib.pipelines.pipeline import Pipeline
from hyca_calib.quality.evaluate import Evaluation
from hyca_calib.records.atomic import write_json
from hyca_calib.records.console import say, stages
from hyca_calib.records.provenance import provenance
from hyca_calib.report.front import write_front
from hyca_calib.search.candidate import Candidate
from hyca_calib.search.error_damping import with_damping
from hyca_calib.search.options import Refinement, RolloutLimits, SearchOptions, Tuning
from hyca_calib.search.presets import PRESETS
from hyca_calib.search.problem import Problem
from hyca_calib.search.run import search, search_preset
from hyca_calib.search.storage import public
from hyca_calib.search.study import JOURNAL, StudyFolder
from hyca_calib.search.tune import tune
from hyca_calib.trace.folder import Folder, Where
from hyca_calib.trace.run_log import run_log
from hyca_calib.trace.store import Trace, newest_trace
from hyca_runtime import load_plan
from hyca_runtime.errors import StudyError, TraceError


def search_plans(budgets: str, traces: Sequence[str], limits: SearchLimits, out: Path | None) -> list[Path]:
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
    for trace_ in recorded[1:]:
        trace_.check_same_samples(recorded[0])
    suffix = "" if limits.preset == "best" else f"-{limits.preset}"
    folder = out or STUDIES / f"{Path(recorded[0].where).stem}-{'-'.join(b.text for b in wanted)}{suffix}"
    folders = [folder if len(wanted) == 1 else folder / budget.text for budget in wanted]
    asked = zip(folders, wanted, strict=True)
    studies = [StudyFolder.open(where, _request(recorded, budget, limits)) for where, budget in asked]
    if all(study.complete and study.report.exists() for study in studies):
        say(f"{folder}: complete already")
        return [study.plan for study in studies]
    facts = {"device": limits.device or default_device(), "storage": public(limits.storage or JOURNAL)}
    with run_log(Folder(folder), facts):
        _search_all(recorded, wanted, studies, limits, folder)
    return [study.plan for study in studies]


def _search_all(
    recorded: Sequence[Trace],
    wanted: Sequence[Budget],
    studies: Sequence[StudyFolder],
    limits: SearchLimits,
    folder: Path,
) -> None:
    """Tune all budgets together, then make each study that is not complete."""
    problems, storage = [Problem(trace_) for trace_ in recorded], limits.storage or folder / JOURNAL
    pipe = load_traced(recorded[0].attributes.model, limits.model, limits.device, limits.download)
    candidates: list[dict[Budget, list[Candidate]]] = []
    if limits.preset == "best" and not all(study.complete for study in studies):
        problems = [_damped(pipe, problem, limits, storage) for problem in problems]
        candidates = [_tuned(problem, wanted, limits, storage) for problem in problems]
    options = SearchOptions(
        confirmation=RolloutLimits(limits.confirm, rollouts=limits.rollouts, workers=limits.workers),
        refinement=Refinement(limits.refine, limits.iterations),
        seed=limits.seed,
        storage=limits.storage,
    )
    for study, budget in zip(studies, wanted, strict=True):
        if not study.complete:
            say(f"budget {budget.text} -> {study.folder}")
            if limits.preset != "best":
                search_preset(pipe, problems[0], budget, study, limits.preset, limits.multistep)
            else:
                with stages(("confirm", "refine")) as tell:
                    search(pipe, [found[budget] for found in candidates], budget, study, options, tell)
        if not study.report.exists():
            point = load_plan(study.plan).section.forecast.at
            report(pipe, study, next(trace_ for trace_ in recorded if trace_.point == point))
        say(f"report: {study.report}")
    if len(studies) > 1:
        page = write_front([(study.plan, load_plan(study.plan)) for study in studies], folder)
        say(f"front: {page}")


def _traces(paths: list[str], limits: SearchLimits) -> list[Trace]:
    """The traces, which must be of one model at different cache points."""
    recorded = [Trace(path) for path in paths]
    models = {trace_.attributes.model.weights_digest for trace_ in recorded}
    points = {str(trace_.point) for trace_ in recorded}
    if len(models) > 1 or len(points) < len(recorded):
        raise TraceError(f"several traces must be of one model, each at another point; got {', '.join(paths)}")
    if len(recorded) > 1 and limits.preset != "best":
        raise TraceError(f"preset {limits.preset!r} takes one trace, got {len(recorded)}")
    return recorded


def _damped(pipe: Pipeline, problem: Problem, limits: SearchLimits, storage: Where) -> Problem:
    """The problem with its damping, from real runs."""
    if not limits.probes:
        return problem
    with stages(("probe",)) as tell:
        tell("probe", 0.0, "")
        found = with_damping(pipe, problem, storage, limits.probes, lambda share: tell("probe", share, ""))
        tell("probe", 1.0, f"{problem.trace.point}: {100 * found.damping[1]:.0f} % of an early error is left")
    return found


def _tuned(
    problem: Problem, budgets: Sequence[Budget], limits: SearchLimits, storage: Where
) -> dict[Budget, list[Candidate]]:
    """Candidates for every budget on one trace, from one Optuna study."""
    point, news = problem.trace.point, ""
    with stages(("tune",)) as tell:
        tell("tune", 0.0, "")

        def tried(_: int, cost: float) -> None:
            nonlocal news
            news = f"{point}: cost {cost:.3e}"

        tuning = Tuning(limits.trials, limits.timeout, limits.groups, limits.taps)
        found = tune(problem, budgets, tuning, storage, limits.seed, tried, lambda share: tell("tune", share, news))
        tell("tune", 1.0, f"{point}: {len(found[budgets[0]])} schedules")
    return found


def _request(traces: Sequence[Trace], budget: Budget, limits: SearchLimits) -> dict[str, Any]:
    lasting = replace(limits, storage=None, workers=1, device=None, model=None, download=False)
    wanted = asdict(lasting)  # who works on it, and where, does not change it
    return {"traces": [t.where for t in traces], "budget": budget.text, "limits": wanted}


def run_demo(budget: str, minutes: float, out: Path | None, record: Path | None) -> tuple[Evaluation, Path]:
    """``hyca_calib demo``; returns the figures and the picture.

    Args:
        record: where documents look for what the run took and reached; they are not told if None.
    """
    begun = time.monotonic()
    parse_budgets(budget)
    path = trace_model(TraceOptions())
    limits = SearchLimits(timeout=30.0, confirm=0.2 * minutes, refine=0.8 * minutes)
    plan_path = search_plans(budget, [path], limits, out or STUDIES / f"demo-{budget.replace(',', '-')}")[-1]
    result = evaluate_file(EvaluateOptions(plan_path))
    spent = (time.monotonic() - begun) / 60
    say(f"{spent:.1f} minutes in all")
    if record is not None:
        facts = provenance(default_device()).model_dump()
        write_json(record, DemoRun(**facts, budget=budget, minutes=spent, result=result))
    return result, plan_path.parent / "pictures" / "wall.png"
