"""The bench of bounds: do they hold for samples that nobody has seen."""

import hashlib
from pathlib import Path

from hyca_calib.bench.coverage import CALIBRATING, HELD_OUT, CoverageRun, agreements, drawn
from hyca_calib.commands.bench_options import BenchOptions
from hyca_calib.commands.bench_presets import PLAN
from hyca_calib.commands.options import STUDIES, short_name
from hyca_calib.pipelines.contract import check_calls
from hyca_calib.pipelines.defaults import batch_of, workload_of
from hyca_calib.pipelines.load import load_pipeline
from hyca_calib.pipelines.rollout import runs_on
from hyca_calib.quality.conformal import LEVEL
from hyca_calib.quality.evaluate import evaluate_plan
from hyca_calib.records.atomic import write_json
from hyca_calib.records.console import say, stage
from hyca_calib.records.provenance import code_of, machine, provenance, versions
from hyca_runtime import load_plan
from hyca_runtime.attach.points import find_transformer
from hyca_runtime.errors import WorkloadError
from hyca_runtime.fingerprint import weights_digest


def bench_coverage(options: BenchOptions) -> Path:
    """``hyca_calib bench coverage``; returns the path of the result.

    Raises:
        WorkloadError: not one plan is given.
    """
    plans = options.plans or []
    if len(plans) != 1:
        raise WorkloadError(f"expected one --plan, whose bound is held against new samples, got {len(plans)}")
    path = plans[0]
    plan = load_plan(path)
    workload = workload_of(plan.provenance, options.model, options.prompts)
    jobs = drawn(workload, CALIBRATING + (options.samples or HELD_OUT), options.seed)
    pipe = load_pipeline(options.model)
    check_calls(pipe, workload.prompts)
    batch = 1 if plan.decides_by_sample else batch_of(options.model, options.batch)
    folder = options.out or STUDIES / f"bench-{short_name(options.model)}"
    network, device = find_transformer(pipe, plan.sections[0].component), str(runs_on(pipe))
    made_on = weights_digest(network), machine(device), versions(), code_of("hyca_runtime", evaluate_plan.__module__)
    asked = f"{plan.model_dump_json(include={'sections'})} {workload.digest} {options.seed} {batch} {made_on}"
    with stage("samples") as tell:
        found = agreements(
            pipe,
            plan,
            jobs,
            workload.num_steps,
            batch,
            folder / "coverage.samples.json",
            hashlib.sha256(asked.encode()).hexdigest(),
            lambda share: tell(share, f"of {len(jobs)}, full run and plan"),
        )
    run = CoverageRun(
        **provenance(device).model_dump(),
        model=options.model,
        budget=str(plan.provenance.get("budget", {}).get("asked", path.name.removesuffix(PLAN))),
        level=LEVEL,
        seed=options.seed,
        calibrating_db=found[:CALIBRATING],
        held_out_db=found[CALIBRATING:],
    )
    out = folder / "coverage.json"
    write_json(out, run)
    told, held = run.coverage, len(run.held_out_db)
    expected = f"expected {round(told.low * held)} to {round(told.high * held)} of {held}"
    say(f"bound of {CALIBRATING} samples {run.bound_db:.1f} dB, holds for {run.covered} others; {expected}")
    return out
