"""The toolkit from Python: what the commands do, on a pipeline that is ready and on prompts at hand.

Progress goes to standard error, as of the commands; files are those of the commands. Models are known by the class of
their pipeline, and the same call goes on with what it began. Errors are those of `hyca_runtime.errors`.
"""

from pathlib import Path
from typing import Any

from hyca_calib.commands.calibrate_options import POINTS, CalibrateOptions
from hyca_calib.commands.calibrating import calibrate_pipe
from hyca_calib.commands.checking import CheckResult, check_with
from hyca_calib.commands.options import CheckOptions, EvaluateOptions, SearchLimits, TraceOptions
from hyca_calib.commands.plans import evaluate_pipe, evaluated_on
from hyca_calib.commands.searching import search_with
from hyca_calib.commands.tracing import trace_pipe
from hyca_calib.costs.budget import Budget
from hyca_calib.pipelines.builtin_prompts import builtin_kind, builtin_prompts
from hyca_calib.pipelines.defaults import batch_of
from hyca_calib.pipelines.given import Prompts, given_calls, quiet_pipeline
from hyca_calib.pipelines.load import TracedModel, check_traced
from hyca_calib.pipelines.pipeline import Pipeline
from hyca_calib.pipelines.workload import Workload
from hyca_calib.quality.evaluate import Evaluation
from hyca_calib.search.effort import EffortName, effort_named
from hyca_calib.search.lineage import trace_named_in
from hyca_calib.trace.store import Trace
from hyca_runtime import Plan, load_plan
from hyca_runtime.errors import WorkloadError

__all__ = ["calibrate", "check", "evaluate", "search", "trace"]


def calibrate(
    pipe: Pipeline,
    prompts: Prompts | None = None,
    *,
    steps: int = 50,
    budget: str = "3x",
    effort: EffortName = "standard",
    start: Plan | str | Path | None = None,
    out: str | Path | None = None,
    max_hours: float | None = None,
    point: str = POINTS,
    batch: int | None = None,
    seed: int = 0,
    threads: int | None = None,
    strict: bool = False,
    force: bool = False,
    refine_at: str | None = None,
) -> Plan:
    """The best plan for a pipeline within a budget, with its certificate: `trace`, `search`, `evaluate`, and a report.

    It tells beforehand what every stage will take. The same call goes on where it stopped, or returns what is there.

    Args:
        pipe: of diffusers, or one that does what docs/guide.md asks of a pipeline; it stays on its device.
        prompts: texts, or mappings of keywords of the pipeline's call with pictures and videos by the names of their
            files; or the path of a file of them. None takes a hundred built-in ones, and the plan says so.
        steps, budget: of the full run; one, such as ``5x``, ``20%``, ``10 steps``, ``1.8s`` of a sample, ``2.5x wall``.
        effort: how much is done, in counts: the plan does not depend on how fast or busy the machine is.
        start: an earlier plan, or its file, of this architecture: kept where it still does what its certificate says,
            else where the search begins; both take a fraction of the effort, see docs/guide.md.
        out: folder of everything that is written; by default ``studies/CLASS-BUDGET``.
        max_hours: all counts are cut evenly to what fits; the plan says so.
        refine_at: size of the samples that taps are refined through, where measured ranks allow it.
        point, batch: where features are cached, see docs/guide.md, and samples of one call, 1 by default.
        threads: of a CPU; by default those that are fastest here, or that OMP_NUM_THREADS says.
        strict, force: cost nothing beyond the budget, else a fiftieth; begin even if memory or disk will not do.

    Returns:
        The plan, as it lies in ``plan.json`` of the folder.

    Raises:
        BudgetError: no budget, more than one, or one that cannot be met.
        PlanMismatchError: the start is for another architecture, or of a kind that a trace does not replay.
        StudyError: the folder holds something else, or not even the least fits the hours that are allowed.
        WorkloadError: not such a pipeline, or prompts that it cannot be called with.
        TraceError: the trace needs more than is free, or cannot be made.

    Example:
        >>> plan = hyca_calib.calibrate(pipe, prompts, steps=14, budget="3x", effort="quick", out="studies/mine")
        >>> plan.section.certificate.num_samples
        6
    """
    earlier = load_plan(start) if isinstance(start, str | Path) else start
    how = {"steps": steps, "effort": effort, "max_hours": max_hours, "point": point, "batch": batch, "seed": seed}
    rest: dict[str, Any] = {**how, "threads": threads, "strict": strict, "force": force, "refine_at": refine_at}
    paths: dict[str, Any] = {"start": earlier and Path(earlier.name), "out": out and Path(out)}
    options = CalibrateOptions(type(pipe).__name__, budget=Budget.parse(budget).text, **rest, **paths)
    with quiet_pipeline(pipe) as ready:
        (made,) = calibrate_pipe(ready, None if prompts is None else given_calls(prompts), options, earlier)
    return load_plan(made.plan)


def trace(
    pipe: Pipeline,
    prompts: Prompts | None = None,
    *,
    steps: int = 50,
    samples: int = 112,
    point: str = "trunk",
    out: str | Path | None = None,
    batch: int | None = None,
    seed: int = 0,
    across: bool = False,
    force: bool = False,
) -> Trace:
    """Record the hidden features of full runs; the same call goes on where it was interrupted.

    Args:
        pipe, prompts, steps, point, batch, force: see `calibrate`.
        samples: in all; 3/7 fit, 1/7 select, 3/7 test.
        out: folder or URL; by default ``traces/CLASS-POINT-STEPS.zarr``.
        across: several points are multiplied with each other, too, as palettes ask.

    Raises:
        WorkloadError: not such a pipeline, or prompts that it cannot be called with.
        TraceError: the folder holds another trace, or it needs more than is free.

    Example:
        >>> recorded = hyca_calib.trace(pipe, prompts, steps=14, samples=14, batch=2, out="traces/mine.zarr")
        >>> recorded.num_steps, recorded.num_channels
        (14, 32)
    """
    options = TraceOptions(
        model=type(pipe).__name__,
        samples=samples,
        seed=seed,
        steps=steps,
        point=point,
        across=across,
        out=None if out is None else str(out),
        batch=batch_of("", batch),
        force=force,
    )
    with quiet_pipeline(pipe) as ready:
        calls = builtin_prompts(builtin_kind(ready)) if prompts is None else given_calls(prompts)
        trace_pipe(ready, Workload(calls, samples, steps, seed), options)
    return Trace(options.where)


def search(
    pipe: Pipeline,
    trace: Trace | str | Path,
    *,
    budget: str = "3x",
    effort: EffortName = "standard",
    out: str | Path | None = None,
    seed: int = 0,
    palette: str | None = None,
    strict: bool = False,
) -> Plan:
    """The best plan within a budget, from a trace; the same call goes on where it was interrupted.

    Args:
        pipe: that was traced.
        trace: or its folder or URL; of several points, rollouts decide between them.
        budget, effort, strict: see `calibrate`.
        out: folder of the study; by default ``studies/TRACE-BUDGET``.
        palette: what steps that are not computed may forecast, see docs/guide.md.

    Raises:
        BudgetError: no budget, more than one, or one that cannot be met.
        StudyError: the folder holds something else.
        WorkloadError: the pipeline has other weights than the traced one.
        TraceError: there is no complete trace.

    Example:
        >>> plan = hyca_calib.search(pipe, recorded, budget="2x", effort="quick")
        >>> plan.section.flops_ratio > 1.9
        True
    """
    where = trace.where if isinstance(trace, Trace) else str(trace)
    limits = SearchLimits(palette=palette, strict=strict, seed=seed)
    folder = None if out is None else Path(out)
    with quiet_pipeline(pipe) as ready:

        def load(model: TracedModel) -> Pipeline:
            check_traced(ready, model, f"this {type(ready).__name__}")
            return ready

        (found,) = search_with(load, Budget.parse(budget).text, [where], limits, folder, effort_named(effort))
    return load_plan(found)


def evaluate(
    pipe: Pipeline,
    plan: Plan | str | Path,
    prompts: Prompts | None = None,
    *,
    samples: int | None = None,
    batch: int | None = None,
    steps: int | None = None,
    sign: bool = False,
) -> Evaluation:
    """Measure a plan on the test split: agreement with the full run, FLOPs, time, memory.

    Args:
        plan: or its file, into which its certificate is then written.
        prompts: those that it was made on; None takes them from the trace that it names.
        samples: of the test split; by default all.
        batch: samples of one call; 1 by default.
        steps: which of several a merged plan is measured on.
        sign: bind the certificate to all weights, which `hyca_runtime.apply_plan` then compares where it is required.

    Raises:
        PlanError: no such plan, or it does not say what it was made on.
        WorkloadError: other prompts than those that it was made on, or none are known.

    Example:
        >>> found = hyca_calib.evaluate(pipe, "studies/mine/plan.json", prompts)
        >>> found.flops_ratio >= 3 / 1.02 and found.agreement_db > 30
        True
    """
    read = plan if isinstance(plan, Plan) else load_plan(plan)
    options = EvaluateOptions(
        Path(read.name if isinstance(plan, Plan) else plan),
        model="",
        samples=samples,
        batch=batch,
        steps=steps,
        certify=not isinstance(plan, Plan),
        sign=sign,
    )
    with quiet_pipeline(pipe) as ready:
        return evaluate_pipe(ready, read, _workload(read, prompts, steps), options)


def check(
    plan: Plan | str | Path,
    trace: Trace | str | Path,
    *,
    pipe: Pipeline | None = None,
    own_trace: str | Path | None = None,
    samples: int = 8,
    batch: int | None = None,
) -> CheckResult:
    """Tell from a trace whether a plan holds on it: other steps, prompts, guidance, resolution or weights.

    Args:
        trace: of the runs that the plan is to be used for; 14 samples do.
        pipe: that was traced: confirms by rollouts, which then decide.
        own_trace: that the plan was made on; by default where the plan says it was.
        samples: that are rolled out.

    Returns:
        A verdict, ``holds``, ``refit``, ``redo`` or ``other model``, and what it rests on.

    Raises:
        PlanMismatchError: the plan is of a kind that a trace does not replay.
        WorkloadError: the pipeline has other weights than the traced one.

    Example:
        >>> hyca_calib.check("studies/mine/plan.json", recorded).verdict
        'holds'
    """
    read = plan if isinstance(plan, Plan) else load_plan(plan)
    options = CheckOptions(
        Path(read.name if isinstance(plan, Plan) else plan),
        trace=trace.where if isinstance(trace, Trace) else str(trace),
        own_trace=None if own_trace is None else str(own_trace),
        samples=samples,
        batch=batch,
    )
    if pipe is None:
        return check_with(None, read, options)
    with quiet_pipeline(pipe) as ready:

        def load(model: TracedModel) -> Pipeline:
            check_traced(ready, model, f"this {type(ready).__name__}")
            return ready

        return check_with(load, read, options)


def _workload(plan: Plan, prompts: Prompts | None, steps: int | None) -> Workload:
    """What a plan was made on, or is measured on if it does not say."""
    where, _ = trace_named_in(plan)
    if prompts is None and where is not None and Path(where).exists():
        return Trace(where).workload()

    def calls(builtin: str | None) -> tuple[dict[str, Any], ...]:
        if prompts is not None:
            return given_calls(prompts)
        if builtin is None:
            raise WorkloadError(f"plan {plan.name!r}: its trace is not here; give the prompts that it was made on")
        return builtin_prompts(builtin)

    return evaluated_on(plan, calls, steps)
