"""What is done with plans: measure, report, merge, upgrade, export."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from hyca_calib.commands.options import EvaluateOptions
from hyca_calib.demo import DEMOS
from hyca_calib.pipelines.contract import check_calls
from hyca_calib.pipelines.defaults import batch_of, prompts_of, workload_on
from hyca_calib.pipelines.load import load_pipeline, load_traced
from hyca_calib.pipelines.pipeline import Pipeline
from hyca_calib.pipelines.rollout import runs_on
from hyca_calib.pipelines.workload import Workload
from hyca_calib.quality.certify import certified, write_certified
from hyca_calib.quality.conformal import fewest_prompts, worst_of_prompts
from hyca_calib.quality.coverage import coverage_of_halves
from hyca_calib.quality.evaluate import Evaluation, evaluate_plan
from hyca_calib.quality.metrics import prompt_groups
from hyca_calib.records.atomic import write_text
from hyca_calib.records.console import present, say, stage
from hyca_calib.records.origins import announced_in, origins, traced_models
from hyca_calib.records.provenance import machine
from hyca_calib.report.write import write_report
from hyca_calib.search.learning_to_cache.layers import LISTS
from hyca_calib.search.lineage import LATER, trace_for, trace_named_in
from hyca_calib.search.options import Naming, Reader
from hyca_calib.search.smoothcache.schedule_file import schedule_of
from hyca_calib.search.study import StudyFolder
from hyca_calib.trace.store import Trace
from hyca_runtime import Plan, PlanError, RunReport, load_plan, merge_plans, save_plan
from hyca_runtime.errors import TraceError, WorkloadError
from hyca_runtime.fingerprint import weights_digest
from hyca_runtime.integrations.cache_dit import options
from hyca_runtime.integrations.sglang import request_params
from hyca_runtime.plan import plan_file
from hyca_runtime.starter import UNCALIBRATED


def evaluate_file(options: EvaluateOptions) -> Evaluation:
    """``hyca_calib evaluate``; returns the figures of the plan. The model is the caller's choice, never the plan's."""
    plan = load_plan(options.plan)
    model = options.model or _model_of(plan)
    workload = evaluated_on(plan, partial(prompts_of, model, options.prompts), options.steps)
    pipe = load_pipeline(model, options.device, options.download)
    return evaluate_pipe(pipe, plan, workload, replace(options, model=model))


def _model_of(plan: Plan) -> str:
    """The embedded model that a plan is of, or may be.

    Raises:
        PlanError: it is of another one.
    """
    names = {made.name for made in traced_models(plan.provenance)} or {"demo"}
    if len(names) == 1 and names <= {*DEMOS}:
        return names.pop()
    told = " and ".join(map(repr, sorted(names)))
    raise PlanError(f"plan {plan.name!r} is of {told}; say with --model where that is")


def evaluate_pipe(pipe: Pipeline, plan: Plan, workload: Workload, options: EvaluateOptions) -> Evaluation:
    """The figures of a plan that was read from the options' file, on a pipeline and a workload that they only name."""
    jobs = workload.of("test")[: options.samples]
    check_calls(pipe, workload.prompts)
    say(f"{len(workload.prompts)} prompts, {len(jobs)} test samples, full run and plan ...")
    steps = options.steps or workload.num_steps
    batch = batch_of(options.model or "", options.batch or (1 if plan.decides_by_sample else None))
    found, run, _ = evaluate_plan(pipe, plan, jobs, steps, batch, options.on_mismatch, options.level)
    _tell_of_weights(plan, pipe)
    _tell_of_new_prompts(found, prompt_groups(jobs), options)
    _tell_of_seconds(found, plan, str(runs_on(pipe)))
    report = run.report or RunReport()
    if options.certify:
        try:
            _check_certifiable(plan, report, options, len(jobs))
            signed = certified(plan, pipe, found, report, jobs, workload, options.sign)
            write_certified(plan_file(options.plan), plan, signed)
            new = next(now for now, was in zip(signed.sections, plan.sections, strict=True) if now is not was)
            say(f"{options.plan}: certified, {new.certificate}")
        except PlanError as error:
            say(f"{options.plan}: not certified, {error}")
    return found


def _tell_of_weights(plan: Plan, pipe: Pipeline) -> None:
    """That a network is not the one that was traced, if so."""
    for made in traced_models(plan.provenance):
        network = getattr(pipe, made.component, None)
        if network is not None and weights_digest(network) != made.weights_digest:
            say(f"the {made.component} has other weights than the one that was traced, of {made.name!r}")


def _tell_of_new_prompts(found: Evaluation, prompts: Sequence[int], options: EvaluateOptions) -> None:
    """What stands in the way of a bound for new prompts, and what the bound covers, if asked."""
    fewest = fewest_prompts(options.level)
    if found.num_prompts is not None and found.num_prompts < fewest:
        say(f"no bound for a new prompt at {options.level:g}: it takes {fewest} test prompts, got {found.num_prompts}")
    if options.coverage:
        try:
            say(str(coverage_of_halves(worst_of_prompts(found.agreement_db_each, prompts), options.level)))
        except WorkloadError as error:
            say(f"coverage not told, {error}")


def _tell_of_seconds(found: Evaluation, plan: Plan, device: str) -> None:
    """How long a sample took beside what the plan announces, if it was made for a budget of time."""
    told = announced_in(plan.provenance)
    if told is None or found.seconds is None:
        return
    here = machine(device), found.batch
    elsewhere = "" if here == (told.device, told.batch) else f", on {told.device} in batches of {told.batch}"
    say(told.beside(found.seconds, found.seconds * found.wall_ratio, elsewhere))


def _says_its_workload(plan: Plan) -> bool:
    return any("workload" in origin for origin in origins(plan.provenance))


def evaluated_on(
    plan: Plan, calls: Callable[[str | None], tuple[dict[str, Any], ...]], steps: int | None = None
) -> Workload:
    """What a plan was made on; of one that does not say, such as one made by hand, samples of seed 0.

    Args:
        calls, steps: see `workload_on`.
    """
    if _says_its_workload(plan):
        return workload_on(plan.provenance, calls, steps)
    if steps is None and len(plan.sections) > 1:
        raise PlanError(f"plan {plan.name!r} does not say how many steps its pipeline makes; give --steps")
    return Workload(calls(None), num_steps=steps or plan.section.schedule.num_steps)


def _check_certifiable(plan: Plan, report: RunReport, options: EvaluateOptions, samples: int) -> None:
    """Raises PlanError unless samples were measured that the plan never saw, by runs that it is for, and as many as a
    certificate has that it holds already."""
    valid = [section.certificate for section in report.followed if section not in plan.outdated]
    most = max((certificate.num_samples for certificate in valid if certificate), default=0)
    if samples < most:
        raise PlanError(f"its certificate is of {most} samples, these are {samples}; measure as many to replace it")
    if not options.sign and any(certificate.signature for certificate in valid if certificate):
        raise PlanError("its certificate is signed; give --sign to replace it")
    if not _says_its_workload(plan) and UNCALIBRATED not in plan.provenance:  # which saw no samples
        raise PlanError("it does not say which samples it was made on, so they may be these")
    if report.off_plan and options.on_mismatch != "error":
        raise PlanError(f"the runs were not the plan's ({report.off_plan})")


def report_study(folder: Path, trace: str | None, model: str | None) -> Path:
    """``hyca_calib report``.

    Args:
        trace: where the trace is now; by default where the plan says it was.
        model: see `load_traced`.
    """
    study = StudyFolder(folder)
    study.read_result()
    plan = load_plan(study.plan)
    recorded = trace_for(plan, Trace(trace or _own_trace(plan)))
    made = [origin["workload"]["digest"] for origin in origins(plan.provenance) if "workload" in origin]
    if made and recorded.attributes.workload.digest not in made:
        raise TraceError(f"{recorded.where} is not the trace of this study, its workload is another; give --trace")
    later, _ = (None, "") if trace else trace_named_in(plan, LATER)
    traces = [recorded, trace_for(plan, Trace(later))] if later else [recorded]
    return report(load_traced(recorded.attributes.model, model), study, traces)


def report(pipe: Pipeline, study: StudyFolder, traces: Sequence[Trace]) -> Path:
    """Write the report of a study on its traces, tell of it meanwhile and in the end; returns its page."""
    with stage("report") as tell:
        summary = write_report(pipe, study, traces, tell)
    present(summary.table())
    return summary.page


def merge_files(paths: Sequence[Path], out: Path) -> Path:
    """``hyca_calib merge``; returns the path of the merged plan."""
    plans = [load_plan(path) for path in paths]
    save_plan(merge_plans(plans, "+".join(dict.fromkeys(plan.name for plan in plans))), out)
    return out


def upgrade_file(path: Path, out: Path | None) -> Path:
    """``hyca_calib upgrade``; returns the path of the plan as it is written today."""
    target = out or plan_file(path)
    save_plan(load_plan(path), target)
    return target


def export_schedule(path: Path, out: Path, names: Naming) -> Path:
    """``hyca_calib export``; returns the path of the schedule file."""
    plan = load_plan(path)
    schedule = schedule_of(plan.section, names, plan.provenance.get(LISTS, {}))
    lines = [f"  {json.dumps(layer)}: {json.dumps(steps)}" for layer, steps in schedule.items()]
    write_text(out, "{\n" + ",\n".join(lines) + "\n}\n")
    return out


def export_options(path: Path, out: Path, to: Reader) -> Path:
    """``hyca_calib export --to cache-dit`` or ``sglang``; returns the path of the file, which is JSON and so YAML."""
    section = load_plan(path).section
    write_text(out, json.dumps(options(section) if to == "cache-dit" else request_params(section), indent=1) + "\n")
    return out


def _own_trace(plan: Plan) -> str:
    if "merged" in plan.provenance:
        raise PlanError(f"plan {plan.name!r} is merged from several; use those one by one")
    where, fault = trace_named_in(plan)
    if where is None:
        raise PlanError(f"{fault}; give it with --trace")
    return where
