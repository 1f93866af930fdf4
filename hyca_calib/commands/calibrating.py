"""A model in, plans with certificates and reports out: trace, search, evaluate, report, each gone on with where it was
interrupted."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hyca_calib.commands.calibrate_options import CalibrateOptions
from hyca_calib.commands.calibration import EVALUATION, Settled, kept_evaluation, settle, with_samples
from hyca_calib.commands.few_steps import palette_of
from hyca_calib.commands.lane_plans import check_sampler, lanes_beside
from hyca_calib.commands.options import EvaluateOptions, SearchLimits, TraceOptions
from hyca_calib.commands.plans import evaluate_pipe
from hyca_calib.commands.searching import compare, report_once, search_with
from hyca_calib.commands.spending import spending
from hyca_calib.commands.starting import Start
from hyca_calib.commands.tracing import trace_pipe
from hyca_calib.costs.budget import TOLERANCE, parse_budgets
from hyca_calib.demo import DEMOS
from hyca_calib.pipelines.builtin_prompts import builtin_kind, builtin_prompts
from hyca_calib.pipelines.contract import check_calls
from hyca_calib.pipelines.defaults import batch_of, prompts_of
from hyca_calib.pipelines.load import TracedModel, load_pipeline
from hyca_calib.pipelines.pipeline import Pipeline
from hyca_calib.pipelines.rollout import runs_on
from hyca_calib.pipelines.threads import using_threads
from hyca_calib.pipelines.workload import Workload
from hyca_calib.quality.evaluate import Evaluation
from hyca_calib.records.atomic import write_json
from hyca_calib.records.console import say, stage
from hyca_calib.search.effort import effort_named
from hyca_calib.search.smaller import size_for
from hyca_calib.search.study import StudyFolder
from hyca_calib.trace.shard_lock import Shard
from hyca_calib.trace.store import Trace
from hyca_runtime import Plan, load_plan
from hyca_runtime.errors import StudyError

TRACE = "trace.zarr"


@dataclass(frozen=True)
class Calibrated:
    """What a calibration made for one budget.

    Attributes:
        result: on the test split.
        threads: of a CPU, that it was made with; None elsewhere.
    """

    plan: Path
    report: Path
    result: Evaluation
    threads: int | None


def calibrate(options: CalibrateOptions) -> list[Calibrated]:
    """``hyca_calib calibrate``; what was made for each budget, nothing of a dry run.

    Raises:
        BudgetError: a budget cannot be met.
        PlanMismatchError: the plan that is begun with is for another architecture, or of a kind that cannot be.
        StudyError: the folder holds something else, or not even the least fits the hours that are allowed.
        WorkloadError: no such model, or prompts that it cannot be called with.
        TraceError: the trace needs more than is free.
    """
    parse_budgets(options.budget)
    given = prompts_of(options.model, options.prompts) if options.prompts or options.model in DEMOS else None
    start = None if options.start is None else load_plan(options.start)
    return calibrate_pipe(load_pipeline(options.model, options.device, options.download), given, options, start)


def calibrate_pipe(
    pipe: Pipeline, prompts: Sequence[dict[str, Any]] | None, options: CalibrateOptions, start: Plan | None = None
) -> list[Calibrated]:
    """As `calibrate`, of a pipeline and prompts that options only name; None for built-in prompts.

    Args:
        start: the earlier plan that is begun with, if any; options only name it.
    """
    if Shard.of_launcher().world > 1:
        raise StudyError("a calibration is one process; with several, `hyca trace`, then `hyca search --workers`")
    budgets = parse_budgets(options.budget, 0.0 if options.strict else TOLERANCE)
    kind = builtin_kind(pipe) if prompts is None else None
    calls = builtin_prompts(kind) if kind else tuple(prompts or ())
    check_calls(pipe, calls)
    size_for(pipe, options.refine_at)
    if options.lanes is not None:
        check_sampler(pipe, options.steps)
    begun, effort = None, effort_named(options.effort)
    if start is not None:
        begun = Start.of(start, TracedModel.of(pipe, options.model, options.component), options.point)
        effort = effort.started(begun.probed)
    workload = with_samples(Workload(calls, num_steps=options.steps, seed=options.seed), effort)
    say(f"{len(calls)} prompts, {kind or options.prompts or 'given'}")
    folder = options.folder
    palette = palette_of(pipe, options, workload) if begun is None else begun.palette
    recorded = TraceOptions(
        model=options.model,
        point=palette or (options.point if begun is None else begun.point),
        across=palette is not None,
        component=options.component,
        out=str(folder / TRACE),
        batch=batch_of(options.model, options.batch),
        force=options.force,
    )
    asked = _asked(options, workload) | {"from": begun and begun.lineage, "palette": palette}
    settled = Settled.in_folder(folder, asked)
    if settled is None:
        settled = settle(
            pipe,
            workload,
            budgets,
            options,
            recorded,
            asked,
            effort,
            begun is not None and begun.may_hold(options.steps),
        )
        if options.dry_run:
            return []
        settled = settled.keep(folder)
    elif options.dry_run:
        say(f"{folder}: begun already, with effort {settled.effort.told}")
        return []
    with using_threads(settled.threads or torch.get_num_threads()), spending(folder, runs_on(pipe)):
        trace_pipe(pipe, with_samples(workload, settled.effort), recorded)
        told = {"prompts": kind, "threads": settled.threads, "from": begun and begun.lineage}
        known = {name: value for name, value in told.items() if value is not None}
        return _planned(pipe, options, settled, recorded, known, begun)


def _asked(options: CalibrateOptions, workload: Workload) -> dict[str, Any]:
    """What decides the plans: where it runs, and with which files of the same content, does not."""
    names = (
        "model",
        "component",
        "steps",
        "budget",
        "effort",
        "max_hours",
        "strict",
        "refine_at",
        "point",
        "seed",
        "batch",
        "threads",
    )
    return {**{name: getattr(options, name) for name in names}, "prompts": workload.describe().prompts_digest}


def _planned(
    pipe: Pipeline,
    options: CalibrateOptions,
    settled: Settled,
    recorded: TraceOptions,
    told: dict[str, Any],
    begun: Start | None,
) -> list[Calibrated]:
    """Search, evaluate and report on a complete trace."""
    folder, trace, found = options.folder, Trace(recorded.where), []
    palette = recorded.point if recorded.across else None
    limits = SearchLimits(
        palette=palette,
        strict=options.strict,
        refine_at=options.refine_at,
        seed=options.seed,
        device=options.device,
    )
    plans = search_with(
        lambda model: pipe,
        options.budget,
        [recorded.where],
        limits,
        folder,
        settled.effort,
        told,
        reported=False,
        start=None if begun is None else begun.plan,
    )
    studies = [StudyFolder(plan.parent) for plan in plans]
    for study in studies:
        result = _evaluated(pipe, study, trace.workload(), recorded, begun is not None and begun.signed)
        report_once(pipe, [trace.at(point) for point in trace.points], study)
        if options.lanes is not None:
            lanes_beside(pipe, trace, load_plan(study.plan), options.lanes, recorded.batch or 1, study.folder)
        found.append(Calibrated(study.plan, study.report, result, settled.threads))
    compare(studies, folder)
    return found


def _evaluated(
    pipe: Pipeline, study: StudyFolder, workload: Workload, recorded: TraceOptions, sign: bool
) -> Evaluation:
    """What a plan reaches on the test split, measured now or before."""
    if (known := kept_evaluation(study.folder)) is not None:
        return known
    options = EvaluateOptions(study.plan, model=recorded.model, batch=recorded.batch, sign=sign)
    with stage("evaluate") as tell:
        tell(0.0)
        result = evaluate_pipe(pipe, load_plan(study.plan), workload, options)
        tell(1.0, f"{result.measure} {result.agreement_db:.2f} dB")
    write_json(study.folder / EVALUATION, result)
    return result
