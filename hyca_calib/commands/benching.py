"""The bench: plans that are given or made, and every baseline, in one run; tables and a picture."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from hyca_calib.baselines import Setup, families
from hyca_calib.baselines.score import Score
from hyca_calib.bench.choice import SPARING, costs_of, is_wanted, windows
from hyca_calib.bench.comparison import Comparison, Learnt
from hyca_calib.bench.documents.comparison_table import measure_of, to_csv, to_markdown
from hyca_calib.bench.documents.front import draw_front
from hyca_calib.bench.documents.standing import others_sentence
from hyca_calib.bench.earlier import check_alike, measured_earlier, others_of, without
from hyca_calib.bench.equivalence import load_margins
from hyca_calib.bench.isolation import CleanPipeline
from hyca_calib.bench.lead import lead
from hyca_calib.bench.notebook import Notebook
from hyca_calib.bench.results import OURS, Bench, BenchFacts, Row, read_bench
from hyca_calib.bench.sweep import MOST
from hyca_calib.bench.verify import CALIBRATED, TOLERANCE_DB, Verification, random_rows
from hyca_calib.commands.bench_options import BenchOptions
from hyca_calib.commands.few_steps import of_few_steps, palette_in
from hyca_calib.commands.options import SearchLimits, TraceOptions, short_name
from hyca_calib.commands.searching import search_plans
from hyca_calib.commands.tracing import trace_model
from hyca_calib.costs.budget import parse_budgets
from hyca_calib.costs.same_cost import MORE
from hyca_calib.demo.judge import load_judge
from hyca_calib.pipelines.contract import check_calls
from hyca_calib.pipelines.defaults import batch_of, prompts_of
from hyca_calib.pipelines.load import load_pipeline
from hyca_calib.pipelines.rollout import runs_on
from hyca_calib.pipelines.workload import Workload
from hyca_calib.quality.metrics import prompt_groups
from hyca_calib.records.atomic import write_text
from hyca_calib.records.console import counting, say, stages
from hyca_calib.records.provenance import provenance, versions
from hyca_calib.search.problem import Problem
from hyca_calib.trace.store import Trace
from hyca_runtime import AttachError, Plan, load_plan
from hyca_runtime.attach.points import find_transformer
from hyca_runtime.errors import StudyError, WorkloadError
from hyca_runtime.fingerprint import weights_digest
from hyca_runtime.plan import plan_file
from hyca_runtime.point import CachePoint

HOURS = 600.0
LIMITS = SearchLimits(timeout=HOURS, confirm=HOURS, refine=HOURS, rollouts=48, iterations=96, fresh=144)
QUICK_LIMITS = SearchLimits(trials=8, timeout=20.0, confirm=0.3, refine=0.3, probes=8)
"""How hard a bench searches for plans. Published plans are made by counted work, the same on every machine."""
POINTS = ("trunk", "trunk:residual", "output")
"""Where that search looks unless told; a quick one looks at the first."""
USUAL_RATIOS = (1.5, 2.0, 3.0, 5.0, 8.0, 10.0)
"""Costs at which baselines are chosen where there is no plan."""


def bench_all(options: BenchOptions) -> Path:
    """``hyca_calib bench``; returns the path of the table.

    Raises:
        StudyError: no plan runs on the model, or figures that are to be kept are of something else.
    """
    earlier = _earlier(options)
    plans = [(f"HyCa plan {plan_file(path).parent.name}", load_plan(path)) for path in options.plans or ()]
    options = of_few_steps(options, _workload(options))
    plans += _searched(options)
    named = [(name, _beside(options.folder, name, plan), plan) for name, plan in plans]
    comparison, facts, learnt = _comparison(options, earlier)

    def tell(row: Row) -> None:
        found = f"{row.result.flops_ratio:5.2f}x {row.result.agreement_db:6.2f} dB" if row.result else row.error
        say(f"{found}  {row.method}")

    ours = comparison.plans(named, tell)
    if ours and not any(row.result for row in ours):
        raise StudyError(f"no plan runs on {options.model}, there is nothing to compare; the first: {ours[0].error}")
    with stages() as progress:
        ratios = [row.result.flops_ratio for row in ours if row.result] or USUAL_RATIOS
        costs = costs_of(ratios)
        sweeps = comparison.sweeps(costs, options.settings or (3 if options.quick else MOST), progress)
        chosen = comparison.chosen(sweeps, windows(ratios), progress)
    chosen += comparison.shown(earlier.rows if earlier else (), beside=chosen)
    baselines = comparison.baselines(chosen, tell)
    comparison.attach(baselines)
    groups = prompt_groups(_workload(options).of("test"))
    rows = [comparison.full(), *_timed(comparison, ours, baselines, groups, named)]
    return _written(options.folder, Bench(facts, groups, tuple(rows), tuple(costs), tuple(sweeps), dict(learnt.known)))


def verify_bench(options: BenchOptions) -> str:
    """``hyca_calib bench --verify``; returns a table of the rows that were measured again.

    Raises:
        StudyError: a figure is off by more than `TOLERANCE_DB`.
    """
    return _verified(options, read_bench(options.folder))


def _earlier(options: BenchOptions) -> Bench | None:
    """The comparison whose figures of other methods are kept, once some of them were measured again."""
    if not options.keep_rivals:
        return None
    bench = read_bench(options.folder)
    if options.again:
        names = [sweep.family for sweep in bench.sweeps]
        again = [name for name in names if is_wanted(name, names, options.again)]
        if not again:
            raise StudyError(f"--again {', '.join(options.again)}: no such family; there are {', '.join(names)}")
        bench = without(bench, again)
    check_alike(bench.facts, {"model": options.model, "workload": _workload(options).describe()})
    say(_verified(options, replace(bench, rows=tuple(row for row in bench.rows if not row.ours))))
    return bench


def _verified(options: BenchOptions, bench: Bench) -> str:
    """A random tenth of the rows of `bench`, measured again; see `verify_bench`."""
    how = Verification(options.folder, partial(load_pipeline, bench.facts.model), _workload(options))
    rows, checks = random_rows(bench, 0.1, options.seed), []
    with counting("verify", len(rows)) as advance:
        for check in how.rows(rows):
            checks.append(check)
            advance(1)
    if wrong := [check for check in checks if not check.off_by <= TOLERANCE_DB]:
        told = "; ".join(f"{check.method}: {check.told}" for check in wrong)
        raise StudyError(
            f"{len(wrong)} of {len(checks)} rows of {options.folder} are not what is measured now ({told}); they were "
            f"made by commit {bench.facts.commit} on {bench.facts.processor}: measure the table again"
        )
    return "\n".join(f"{check.off_by:.4f} dB off  {check.method}" for check in checks)


def _comparison(options: BenchOptions, earlier: Bench | None) -> tuple[Comparison, BenchFacts, Learnt]:
    """Everything that is measured with, and what the table says of it."""
    workload, batch = _workload(options), batch_of(options.model, options.batch)
    say(f"{options.prompts or options.model}: {len(workload.prompts)} prompts")
    clean = CleanPipeline(lambda: load_pipeline(options.model), workload.of("fit")[0])
    check_calls(clean.pipe, workload.prompts)
    facts = {
        "model": options.model,
        "workload": workload.describe().model_dump(),
        "batch": batch,
        "threads": torch.get_num_threads(),
        "weights": weights_digest(find_transformer(clean.pipe)),
    }
    device = str(runs_on(clean.pipe))
    made = {**facts, **provenance(device).model_dump(), "only": options.only or ()}
    if earlier:
        check_alike(earlier.facts, made)
        made["others"] = others_of(earlier.facts)
    known = measured_earlier(earlier, options.folder) if earlier else {}
    notebook = Notebook(options.folder, {**facts, "device": device, "versions": versions()}, known)
    learnt = Learnt(notebook)
    setup = Setup(workload.of("fit")[:CALIBRATED], workload.num_steps, learnt.recall, lambda: Problem(_trunk(options)))
    found = families(clean.pipe, setup)
    names = [family.name for family in found]
    found = [family for family in found if is_wanted(family.name, names, options.only or ())]
    if not found:
        raise WorkloadError(f"no family is called {' or '.join(options.only or ())}; there are {', '.join(names)}")
    judge = load_judge(options.model)
    judged = (judge, load_margins(options.model)) if judge else None
    comparison = Comparison.of(clean, workload, batch, found, judged, notebook)
    return comparison, BenchFacts.model_validate(made), learnt


def _timed(
    comparison: Comparison,
    ours: Sequence[Row],
    baselines: Sequence[Row],
    groups: Sequence[int],
    plans: Sequence[tuple[str, str, Plan]],
) -> list[Row]:
    """All rows; our plans and the baselines that each is compared with have their wall time."""
    met = {
        found.baseline
        for row in ours
        if row.result
        for most in (MORE, float("inf"))
        if (found := lead(row.result, baselines, groups, most))
    }
    wanted = [row for row in (*baselines, *ours) if row.ours or row.method in met]
    timed = {row.method: row for row in comparison.timed(wanted, plans)}
    return [timed.get(row.method, row) for row in (*baselines, *ours)]


def _beside(folder: Path, name: str, plan: Plan) -> str:
    """Puts the plan beside the table, so that its row can be measured again; returns the file's name."""
    file = f"{name.removeprefix('HyCa plan ').replace('/', '-')}.plan.json"
    write_text(folder / file, plan.model_dump_json(indent=1) + "\n")
    return file


def _written(folder: Path, bench: Bench) -> Path:
    facts, rows = bench.facts, bench.rows
    tested, prompts = len(bench.groups), len(set(bench.groups))
    head = (
        f"{tested} test samples of {prompts} prompts of `{facts.model}`, {facts.workload.num_steps} steps, "
        f"seed {facts.workload.seed}, batch {facts.batch}, {facts.device} ({facts.processor}), threads: "
        f"{facts.threads}, torch {facts.versions['torch']}, {facts.date}, commit {facts.commit}. Agreement "
        f"is with the full run; intervals resample prompts. Other ways spend at least as many FLOPs as the plan, "
        f"or 2 % less; their FLOPs ratio is {SPARING} or more, or within {100 * MORE - 100:.0f} % of the plan's. FLOPs "
        "are the mean over all samples. Settings were chosen on the select split; every family was swept until the "
        "neighbours of its best settings were tried, unless its line says what lies open, each on a network proven "
        "untouched. Wall time and memory are of "
        f"one batch, in turn with the full run, for plans and what they are compared with."
        f"{_left_out(facts)}\n\n"
        "![agreement over compute](bench.png)\n\n"
    )
    bench.write(folder)
    write_text(folder / "bench.csv", to_csv(rows))
    shown = [Score(r.method, r.family, r.result.flops_ratio, r.result.agreement_db_each) for r in rows if r.result]
    ours, baselines = ([score for score in shown if (score.family == OURS) == own] for own in (True, False))
    faint = [score for sweep in bench.sweeps for score in sweep.tried if not score.error]
    draw_front(ours, baselines, folder / "bench.png", faint, measure_of(rows))
    write_text(folder / "bench.md", head + to_markdown(bench))
    return folder / "bench.md"


def _left_out(facts: BenchFacts) -> str:
    only = f" Only these families were tried: {', '.join(facts.only)}." if facts.only else ""
    return only + (f" {others_sentence(facts)}" if facts.others else "")


def _searched(options: BenchOptions) -> list[tuple[str, Plan]]:
    """Plans for the budgets, made in the bench's folder; what is there is not made again."""
    if not options.searched:
        return []
    usual = QUICK_LIMITS if options.quick else LIMITS
    limits = replace(
        usual,
        model=options.model,
        seed=options.seed,
        rollouts=options.rollouts or usual.rollouts,
        iterations=options.iterations or usual.iterations,
        palette=palette_in(_points(options)),
    )
    paths = search_plans(options.searched, _traced(options), limits, options.folder / "plans")
    named = zip(parse_budgets(options.searched), paths, strict=True)
    return [(f"HyCa plan {budget.text}", load_plan(path)) for budget, path in named]


def _workload(options: BenchOptions) -> Workload:
    samples, steps = (14, 20) if options.quick else (TraceOptions.samples, TraceOptions.steps)
    prompts = prompts_of(options.model, options.prompts)
    return Workload(prompts, options.samples or samples, options.steps or steps, options.seed)


def trace_of(options: BenchOptions, point: str = "trunk", across: bool = False) -> str:
    """The path of the bench's own trace at a point, or at several, which is made unless it is there."""
    workload = _workload(options)
    wanted = TraceOptions(
        model=options.model,
        prompts=options.prompts,
        samples=workload.num_samples,
        seed=options.seed,
        steps=workload.num_steps,
        batch=options.batch,
        point=point,
        across=across,
        out=str(options.folder / f"{short_name(point)}.zarr"),
    )
    return trace_model(wanted)


def _points(options: BenchOptions) -> Sequence[str]:
    return options.points or POINTS[: 1 if options.quick else None]


def _trunk(options: BenchOptions) -> Trace:
    """What baselines that plan offline learn from: that of the search, where it looks at the trunk, too."""
    point = CachePoint()
    shared = options.searched and str(point) in _points(options)
    found = map(Trace, _traced(options) if shared else [trace_of(options, str(point))])
    return next(trace for trace in found if point in trace.points).at(point)


def _traced(options: BenchOptions) -> list[str]:
    """The trace of all points, or where the network has not all of them, of each that it has.

    Raises:
        AttachError: it has none of them.
    """
    found, refused, points = list[str](), list[AttachError](), _points(options)
    with suppress(AttachError):
        return [trace_of(options, ",".join(points), palette_in(points) is not None)]
    for point in points:
        try:
            found.append(trace_of(options, point))
        except AttachError as error:
            refused.append(error)
    if not found:
        raise refused[0]
    for reason in refused:
        say(f"passed over: {reason}")
    return found
