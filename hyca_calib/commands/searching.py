"""Search: traces in, plans out, progress on the console; and the demo of everything."""

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cache
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
from hyca_calib.search.dicache.search import DICACHE, search_dicache
from hyca_calib.search.dicache.stack import measure_stack, rule_of
from hyca_calib.search.error_damping import with_damping
from hyca_calib.search.options import Refinement, RolloutLimits, SearchOptions, Tuning
from hyca_calib.search.presets import PRESETS
from hyca_calib.search.problem import Problem
from hyca_calib.search.run import search, search_preset
from hyca_calib.search.smoothcache.calibration import Changes, calibrate
from hyca_calib.search.smoothcache.rule import check_budget
from hyca_calib.search.smoothcache.schedule_file import schedule_content
from hyca_calib.search.smoothcache.search import (
    SMOOTHCACHE,
    kind_layers,
    reach_of,
    scheduled_layers,
    search_smoothcache,
    write_scheduled,
)
from hyca_calib.search.storage import public
from hyca_calib.search.study import JOURNAL, StudyFolder
from hyca_calib.search.tune import tune
from hyca_calib.trace.folder import Folder, Where
from hyca_calib.trace.run_log import run_log
from hyca_calib.trace.store import Trace, newest_trace
from hyca_runtime import Plan, load_plan
from hyca_runtime.errors import BudgetError, StudyError, TraceError
from hyca_runtime.registry import did_you_mean

Maker = Callable[[Budget, StudyFolder], Plan]
"""Makes the plan of a budget, and writes it with its account into its study."""


def search_plans(budgets: str | None, traces: Sequence[str], limits: SearchLimits, out: Path | None) -> list[Path]:
    """``hyca_calib search``; returns the paths of the plans.

    Args:
        budgets: may be left out where a schedule is followed.
        traces: of one workload, at different cache points; empty takes the newest.

    Raises:
        BudgetError: a budget cannot be met, or there is none.
        StudyError: unknown preset, or a folder that holds another study.
        TraceError: traces of different models or workloads.
    """
    wanted = _budgets(budgets, limits)
    recorded = _traces(list(traces) or [str(newest_trace(TRACES))], limits)
    for budget, trace_ in itertools.product(wanted, recorded):  # refuse all before any work is done
        if limits.preset not in (SMOOTHCACHE, DICACHE):
            budget.computed_steps(trace_.cost, trace_.num_steps, 3)
    for trace_ in recorded[1:]:
        trace_.check_same_samples(recorded[0])
    suffix = "" if limits.preset == "best" else f"-{limits.preset}"
    folder = out or STUDIES / f"{Path(recorded[0].where).stem}-{'-'.join(b.text for b in wanted)}{suffix}"
    folders = [folder if len(wanted) == 1 else folder / budget.text for budget in wanted]
    requests = [_request(recorded, budget, limits) for budget in wanted]
    studies = [StudyFolder.at(where, request) for where, request in zip(folders, requests, strict=True)]
    if all(study.complete and study.report.exists() for study in studies):
        say(f"{folder}: complete already")
        return [study.plan for study in studies]
    pipe = load_traced(recorded[0].attributes.model, limits.model, limits.device, limits.download)
    make = _maker(pipe, [Problem(trace_) for trace_ in recorded], wanted, limits, folder)
    for study, request in zip(studies, requests, strict=True):
        StudyFolder.open(study.folder, request)
    facts = {"device": limits.device or default_device(), "storage": public(limits.storage or JOURNAL)}
    with run_log(Folder(folder), facts):
        _make_all(pipe, recorded, make, dict(zip(wanted, studies, strict=True)), folder)
    return [study.plan for study in studies]


def _make_all(
    pipe: Pipeline, recorded: Sequence[Trace], make: Maker, studies: Mapping[Budget, StudyFolder], folder: Path
) -> None:
    """Make each study that is not complete, and a page of all."""
    for budget, study in studies.items():
        if not study.complete:
            say(f"budget {budget.text} -> {study.folder}")
            make(budget, study)
        if not study.report.exists():
            places = list(load_plan(study.plan).section.places.values())
            report(pipe, study, next((trace_ for trace_ in recorded if places == [trace_.point]), recorded[0]))
        say(f"report: {study.report}")
    if len(studies) > 1:
        page = write_front([(study.plan, load_plan(study.plan)) for study in studies.values()], folder)
        say(f"front: {page}")


def _budgets(budgets: str | None, limits: SearchLimits) -> tuple[Budget, ...]:
    """What plans are made for; one without a limit, named after its file, where a schedule is followed."""
    known = ["best", *PRESETS, SMOOTHCACHE, DICACHE]
    if limits.preset not in known:
        raise StudyError(
            f"unknown preset {limits.preset!r}{did_you_mean(limits.preset, known)} Known: {', '.join(known)}."
        )
    if limits.schedule is not None and limits.preset != SMOOTHCACHE:
        raise StudyError(f"a schedule file is followed with --preset {SMOOTHCACHE}, got --preset {limits.preset}")
    if (budgets is None) == (limits.schedule is None):
        raise BudgetError("give either --budget, such as 5x, or a --schedule of smoothcache to follow")
    return (Budget(limits.schedule.stem),) if budgets is None and limits.schedule else parse_budgets(budgets or "")


def _maker(
    pipe: Pipeline, problems: Sequence[Problem], wanted: Sequence[Budget], limits: SearchLimits, folder: Path
) -> Maker:
    """What makes the plan of a budget; what all of them need is done once, when the first is made.

    Raises:
        BudgetError: the preset cannot meet a budget.
    """
    if limits.preset == SMOOTHCACHE:
        return _smoothcache(pipe, problems[0], wanted, limits, folder)
    if limits.preset == DICACHE:
        return _dicache(pipe, problems[0])
    if limits.preset != "best":
        return lambda budget, study: search_preset(pipe, problems[0], budget, study, limits.preset, limits.multistep)
    options = SearchOptions(
        confirmation=RolloutLimits(limits.confirm, rollouts=limits.rollouts, workers=limits.workers),
        refinement=Refinement(limits.refine, limits.iterations),
        seed=limits.seed,
        storage=limits.storage,
    )

    @cache
    def candidates() -> list[dict[Budget, list[Candidate]]]:
        storage = limits.storage or folder / JOURNAL
        damped = [_damped(pipe, problem, limits, storage) for problem in problems]
        return [_tuned(problem, wanted, limits, storage) for problem in damped]

    def make(budget: Budget, study: StudyFolder) -> Plan:
        contenders = [found[budget] for found in candidates()]
        with stages(("confirm", "refine")) as tell:
            return search(pipe, contenders, budget, study, options, tell)

    return make


def _smoothcache(
    pipe: Pipeline, problem: Problem, wanted: Sequence[Budget], limits: SearchLimits, folder: Path
) -> Maker:
    """What makes plans of SmoothCache: by thresholds for budgets, or by a schedule that was made elsewhere."""
    if limits.schedule is not None:
        layers, runs = scheduled_layers(pipe, problem, limits.schedule)
        told = limits.schedule.name
        return lambda budget, study: write_scheduled(pipe, problem, budget, study, layers, runs, {"schedule": told})
    reach = reach_of(problem, limits.lookahead)
    layers = kind_layers(pipe, problem)
    for budget in wanted:
        check_budget(budget, layers, reach)

    @cache
    def changes() -> Changes:
        with stages(("calibrate",)) as tell:
            return calibrate(
                pipe, problem, layers.points, reach.lookahead, folder, lambda share: tell("calibrate", share, "")
            )

    return lambda budget, study: search_smoothcache(pipe, problem, budget, study, layers, changes(), reach)


def _dicache(pipe: Pipeline, problem: Problem) -> Maker:
    """What makes plans of DiCache: the network is measured once."""
    rule = rule_of(problem.trace.attributes.model.transformer)
    stack = measure_stack(pipe, problem, rule.blocks)

    def make(budget: Budget, study: StudyFolder) -> Plan:
        with stages(("threshold",)) as tell:
            return search_dicache(pipe, problem, budget, study, stack, lambda share: tell("threshold", share, ""))

    return make


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
    own: dict[str, Any] = {"lookahead": wanted.pop("lookahead"), "schedule": wanted.pop("schedule")}
    if limits.schedule is not None:
        own["schedule"] = schedule_content(limits.schedule)
    asked = {"traces": [t.where for t in traces], "budget": budget.text, "limits": wanted}
    return asked | own if limits.preset == SMOOTHCACHE else asked


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
