"""The main job on the embedded model, and what is done with a plan."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from hyca_calib.bench.results import DemoRun
from hyca_calib.commands.searching import STUDIES, Limits, search_plans
from hyca_calib.commands.tracing import TraceOptions, trace_model
from hyca_calib.costs.budget import parse_budgets
from hyca_calib.pipelines.defaults import batch_of, workload_of
from hyca_calib.pipelines.load import default_device, load_pipeline, load_traced
from hyca_calib.quality.evaluate import Evaluation, evaluate_plan
from hyca_calib.records.atomic import write_json
from hyca_calib.records.console import present, say
from hyca_calib.records.provenance import provenance
from hyca_calib.report.write import write_report
from hyca_calib.search.lineage import trace_named_in
from hyca_calib.search.study import StudyFolder
from hyca_calib.trace.store import Trace
from hyca_runtime import Plan, PlanError, load_plan, merge_plans, save_plan
from hyca_runtime.compiled_plan import OnMismatch

__all__ = ["evaluate_file", "merge_files", "report_study", "run_demo"]


def evaluate_file(
    plan_path: Path,
    model: str,
    prompts: Path | None,
    samples: int | None,
    batch: int | None,
    steps: int | None = None,
    on_mismatch: OnMismatch = "error",
    device: str | None = None,
    download: bool = False,
) -> Evaluation:
    """``hyca_calib evaluate``; the model is the caller's choice, never the plan's."""
    plan = load_plan(plan_path)
    workload = workload_of(plan.provenance, model, prompts)
    jobs = workload.of("test")[:samples]
    pipe = load_pipeline(model, device, download)
    say(f"{len(jobs)} test samples, full run and plan ...")
    return evaluate_plan(pipe, plan, jobs, steps or workload.num_steps, batch_of(model, batch), on_mismatch)[0]


def report_study(folder: Path, trace: str | None, model: str | None) -> Path:
    """``hyca_calib report``.

    Args:
        trace: where the trace is now; by default where the plan says it was.
        model: see `load_traced`.
    """
    study = StudyFolder(folder)
    study.read_result()
    plan = load_plan(study.plan)
    recorded = Trace(trace or _own_trace(plan))
    pipe = load_traced(recorded.attributes.model, model)
    summary = write_report(pipe, study, recorded, recorded.workload(), plan)
    present(summary.table())
    return summary.page


def merge_files(paths: Sequence[Path], out: Path) -> Path:
    """``hyca_calib merge``; returns the path of the merged plan."""
    plans = [load_plan(path) for path in paths]
    save_plan(merge_plans(plans, "+".join(dict.fromkeys(plan.name for plan in plans))), out)
    return out


def run_demo(budget: str, minutes: float, out: Path | None, record: Path | None = None) -> tuple[Evaluation, Path]:
    """``hyca_calib demo``; returns the figures and the picture.

    Args:
        record: where documents look for what the run took and reached; they are not told if None.
    """
    begun = time.monotonic()
    parse_budgets(budget)
    path = trace_model(TraceOptions())
    limits = Limits(timeout=30.0, confirm=0.2 * minutes, refine=0.8 * minutes)
    plan_path = search_plans(budget, [path], limits, out or STUDIES / f"demo-{budget.replace(',', '-')}")[-1]
    result = evaluate_file(plan_path, "demo", None, None, None)
    spent = (time.monotonic() - begun) / 60
    say(f"{spent:.1f} minutes in all")
    if record is not None:
        facts = provenance(default_device()).model_dump()
        write_json(record, DemoRun(**facts, budget=budget, minutes=spent, result=result))
    return result, plan_path.parent / "pictures" / "wall.png"


def _own_trace(plan: Plan) -> str:
    if "merged" in plan.provenance:
        raise PlanError(f"plan {plan.name!r} is merged from several; use those one by one")
    where, fault = trace_named_in(plan)
    if where is None:
        raise PlanError(f"{fault}; give it with --trace")
    return where
