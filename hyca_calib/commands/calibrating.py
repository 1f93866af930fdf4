"""A model in, plans with certificates and reports out: trace, search, evaluate, report, each gone on with where it was
interrupted."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError

from hyca_calib.commands.calibrate_options import CalibrateOptions
from hyca_calib.commands.calibration import Settled, settle, with_samples
from hyca_calib.commands.options import EvaluateOptions, SearchLimits, TraceOptions
from hyca_calib.commands.plans import evaluate_pipe
from hyca_calib.commands.searching import compare, report_once, search_with
from hyca_calib.commands.tracing import trace_pipe
from hyca_calib.costs.budget import TOLERANCE, parse_budgets
from hyca_calib.demo import DEMOS
from hyca_calib.pipelines.builtin_prompts import builtin_kind, builtin_prompts
from hyca_calib.pipelines.contract import check_calls
from hyca_calib.pipelines.defaults import batch_of, prompts_of
from hyca_calib.pipelines.load import load_pipeline
from hyca_calib.pipelines.pipeline import Pipeline
from hyca_calib.pipelines.threads import using_threads
from hyca_calib.pipelines.workload import Workload
from hyca_calib.quality.evaluate import Evaluation
from hyca_calib.records.atomic import write_json
from hyca_calib.records.console import say
from hyca_calib.search.effort import EFFORTS
from hyca_calib.search.study import StudyFolder
from hyca_calib.trace.shard_lock import Shard
from hyca_calib.trace.store import Trace
from hyca_runtime import load_plan
from hyca_runtime.errors import StudyError

TRACE, EVALUATION = "trace.zarr", "evaluation.json"


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
        StudyError: the folder holds something else, or not even the least fits the hours that are allowed.
        WorkloadError: no such model, or prompts that it cannot be called with.
        TraceError: the trace needs more than is free.
    """
    parse_budgets(options.budget)
    given = prompts_of(options.model, options.prompts) if options.prompts or options.model in DEMOS else None
    return calibrate_pipe(load_pipeline(options.model, options.device, options.download), given, options)


def calibrate_pipe(
    pipe: Pipeline, prompts: Sequence[dict[str, Any]] | None, options: CalibrateOptions
) -> list[Calibrated]:
    """As `calibrate`, of a pipeline and prompts that options only name; None for built-in prompts."""
    if Shard.of_launcher().world > 1:
        raise StudyError("a calibration is one process; with several, `hyca trace`, then `hyca search --workers`")
    budgets = parse_budgets(options.budget, 0.0 if options.strict else TOLERANCE)
    kind = builtin_kind(pipe) if prompts is None else None
    calls = builtin_prompts(kind) if kind else tuple(prompts or ())
    check_calls(pipe, calls)
    workload = with_samples(Workload(calls, num_steps=options.steps, seed=options.seed), EFFORTS[options.effort])
    say(f"{len(calls)} prompts, {kind or options.prompts or 'given'}")
    folder = options.folder
    recorded = TraceOptions(
        model=options.model,
        point=options.point,
        component=options.component,
        out=str(folder / TRACE),
        batch=batch_of(options.model, options.batch),
        force=options.force,
    )
    asked = _asked(options, workload)
    settled = Settled.in_folder(folder, asked)
    if settled is None:
        settled = settle(pipe, workload, budgets, options, recorded, asked)
        if options.dry_run:
            return []
        settled.keep(folder)
    elif options.dry_run:
        say(f"{folder}: begun already, with effort {settled.effort.told}")
        return []
    with using_threads(settled.threads or torch.get_num_threads()):
        trace_pipe(pipe, with_samples(workload, settled.effort), recorded)
        told = {"prompts": kind, "threads": settled.threads}
        known = {name: value for name, value in told.items() if value is not None}
        return _planned(pipe, options, settled, recorded, known)


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
        "point",
        "seed",
        "batch",
        "threads",
    )
    return {**{name: getattr(options, name) for name in names}, "prompts": workload.describe().prompts_digest}


def _planned(
    pipe: Pipeline, options: CalibrateOptions, settled: Settled, recorded: TraceOptions, told: dict[str, Any]
) -> list[Calibrated]:
    """Search, evaluate and report on a complete trace."""
    folder, trace, found = options.folder, Trace(recorded.where), []
    limits = SearchLimits(strict=options.strict, seed=options.seed, device=options.device)
    effort = settled.effort
    plans = search_with(
        lambda model: pipe, options.budget, [recorded.where], limits, folder, effort, told, reported=False
    )
    studies = [StudyFolder(plan.parent) for plan in plans]
    for study in studies:
        result = _evaluated(pipe, study, trace.workload(), recorded)
        report_once(pipe, [trace.at(point) for point in trace.points], study)
        found.append(Calibrated(study.plan, study.report, result, settled.threads))
    compare(studies, folder)
    return found


def _evaluated(pipe: Pipeline, study: StudyFolder, workload: Workload, recorded: TraceOptions) -> Evaluation:
    """What a plan reaches on the test split, measured now or before."""
    kept = study.folder / EVALUATION
    with suppress(OSError, ValidationError):
        return TypeAdapter(Evaluation).validate_json(kept.read_bytes())
    options = EvaluateOptions(study.plan, model=recorded.model, batch=recorded.batch)
    result = evaluate_pipe(pipe, load_plan(study.plan), workload, options)
    write_json(kept, result)
    return result
