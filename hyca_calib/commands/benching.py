"""The bench: plans that are given or made, and every rival, in one run; tables and a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch

from hyca_calib.baselines import Setup, families
from hyca_calib.bench.choice import MORE, SPARING, costs_of, windows
from hyca_calib.bench.comparison import Comparison, Learnt
from hyca_calib.bench.documents.comparison_table import to_csv, to_markdown
from hyca_calib.bench.documents.front import Dot, draw_front
from hyca_calib.bench.equivalence import load_margins
from hyca_calib.bench.isolation import CleanPipeline
from hyca_calib.bench.lead import lead
from hyca_calib.bench.notebook import Notebook
from hyca_calib.bench.results import OURS, Bench, BenchFacts, Row
from hyca_calib.bench.sweep import MOST, Sweep
from hyca_calib.bench.verify import CALIBRATED
from hyca_calib.commands.searching import STUDIES, Limits, search_plans
from hyca_calib.commands.tracing import TraceOptions, short_name, trace_model
from hyca_calib.costs.budget import parse_budgets
from hyca_calib.demo.judge import load_judge
from hyca_calib.pipelines.defaults import batch_of, prompts_of
from hyca_calib.pipelines.load import load_pipeline, weights_digest
from hyca_calib.pipelines.rollout import device_of
from hyca_calib.pipelines.workload import Workload
from hyca_calib.quality.metrics import prompt_groups
from hyca_calib.records.atomic import write_text
from hyca_calib.records.console import say, stages
from hyca_calib.records.provenance import provenance, versions
from hyca_calib.search.problem import Problem
from hyca_calib.trace.store import Trace
from hyca_runtime import AttachError, Plan, load_plan
from hyca_runtime.attach.points import find_transformer
from hyca_runtime.errors import WorkloadError

__all__ = ["BenchOptions", "bench_all"]

HOURS = 600.0
LIMITS = Limits(timeout=HOURS, confirm=HOURS, refine=HOURS, rollouts=48, iterations=48)
QUICK_LIMITS = Limits(trials=8, timeout=20.0, confirm=0.3, refine=0.3, probes=8)
"""Of the search for plans. Published plans are made by counted work, the same on every machine."""
POINTS = ("trunk", "trunk:residual")
"""Where it looks unless told; a quick one at the first."""
QUICK_SETTINGS = 3
"""Of each family of rivals."""
USUAL_RATIOS = (1.5, 2.0, 3.0, 5.0, 8.0, 10.0)
"""Costs at which rivals are chosen where there is no plan."""


@dataclass(frozen=True)
class BenchOptions:
    """Options of ``hyca_calib bench``.

    Attributes:
        plans: to compare.
        budgets: plans for these are searched first, on traces of the same workload; as for search.
        points: where those look, `POINTS` if empty; rollouts decide.
        rollouts, iterations: of the search, for every budget; as for search.
        only: names of families, or parts of names; the others are left out.
        settings: most settings of a family; by default as many as it takes until the best lie inside.
        quick: a small search, and few settings of each family.
    """

    plans: Sequence[Path] = ()
    budgets: str | None = None
    points: Sequence[str] = ()
    rollouts: int | None = None
    iterations: int | None = None
    model: str = "demo"
    prompts: Path | None = None
    samples: int = 112
    seed: int = 0
    steps: int = 50
    only: Sequence[str] = ()
    settings: int | None = None
    out: Path | None = None
    batch: int | None = None
    quick: bool = False

    @property
    def looked_at(self) -> Sequence[str]:
        """Points of a search."""
        return self.points or POINTS[: 1 if self.quick else None]

    @property
    def most(self) -> int:
        """Settings of a family."""
        return self.settings or (QUICK_SETTINGS if self.quick else MOST)

    def wants(self, family: str, names: Sequence[str]) -> bool:
        """Whether a family, of these, is asked for: by its name, or by a part of it that is nobody's name."""
        return not self.only or any(part == family or (part not in names and part in family) for part in self.only)

    @property
    def folder(self) -> Path:
        """Where everything goes; a search of its own stays out of the published results."""
        own = f"bench-{short_name(self.model)}" if self.budgets else "bench"
        return self.out or STUDIES / own

    @cached_property
    def workload(self) -> Workload:
        return Workload(prompts_of(self.model, self.prompts), self.samples, self.steps, self.seed)


def bench_all(options: BenchOptions) -> Path:
    """``hyca_calib bench``; returns the path of the table."""
    plans = [(f"HyCa plan {path.parent.name}", load_plan(path)) for path in options.plans]
    plans += _searched(options)
    named = [(name, _beside(options.folder, name, plan), plan) for name, plan in plans]
    comparison, facts, learnt = _comparison(options)

    def tell(row: Row) -> None:
        found = f"{row.result.flops_ratio:5.2f}x {row.result.psnr_db:6.2f} dB" if row.result else row.error
        say(f"{found}  {row.method}")

    ours = comparison.plans(named, tell)
    with stages() as progress:
        ratios = [row.result.flops_ratio for row in ours if row.result] or USUAL_RATIOS
        costs = costs_of(ratios)
        sweeps = comparison.sweeps(costs, options.most, progress)
        baselines = comparison.chosen(sweeps, windows(ratios), progress)
    rivals = comparison.rivals(baselines, tell)
    comparison.attach(rivals)
    groups = prompt_groups(options.workload.of("test"))
    rows = [comparison.full(), *_timed(comparison, ours, rivals, groups, named)]
    return _written(options.folder, Bench(facts, groups, tuple(rows), tuple(costs), tuple(sweeps), dict(learnt.known)))


def _comparison(options: BenchOptions) -> tuple[Comparison, BenchFacts, Learnt]:
    """Everything that is measured with, and what the table says of it."""
    workload, batch = options.workload, batch_of(options.model, options.batch)
    clean = CleanPipeline(lambda: load_pipeline(options.model), workload.of("fit")[0])
    facts = {
        "model": options.model,
        "workload": workload.describe(),
        "batch": batch,
        "threads": torch.get_num_threads(),
        "weights": weights_digest(find_transformer(clean.pipe)),
    }
    measured = {**facts, "device": str(device_of(clean.pipe)), "versions": versions()}
    notebook = Notebook(options.folder, measured)
    learnt = Learnt(notebook)
    setup = Setup(workload.of("fit")[:CALIBRATED], workload.num_steps, learnt.recall, lambda: _problem(options))
    found = families(clean.pipe, setup)
    names = [family.name for family in found]
    found = [family for family in found if options.wants(family.name, names)]
    if not found:
        raise WorkloadError(f"no family is called {' or '.join(options.only)}; there are {', '.join(names)}")
    judge = load_judge(options.model)
    judged = (judge, load_margins(options.model)) if judge else None
    comparison = Comparison.of(clean, workload, batch, found, judged, notebook)
    made = provenance(str(device_of(clean.pipe))).model_dump()
    return comparison, BenchFacts.model_validate({**facts, **made}), learnt


def _problem(options: BenchOptions) -> Problem:
    """What rivals that plan offline learn from: a trace at the trunk."""
    return Problem(Trace(_trace(options, "trunk")))


def _timed(
    comparison: Comparison,
    ours: Sequence[Row],
    rivals: Sequence[Row],
    groups: Sequence[int],
    plans: Sequence[tuple[str, str, Plan]],
) -> list[Row]:
    """All rows; our plans and the rivals that each is compared with have their wall time."""
    met = {
        found.rival
        for row in ours
        if row.result
        for most in (MORE, float("inf"))
        if (found := lead(row.result, rivals, groups, most))
    }
    wanted = [row for row in (*rivals, *ours) if row.ours or row.method in met]
    timed = {row.method: row for row in comparison.timed(wanted, plans)}
    return [timed.get(row.method, row) for row in (*rivals, *ours)]


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
        f"{facts.threads}, torch {facts.versions['torch']}, {facts.date}, commit {facts.commit}. PSNR and "
        f"SSIM are to the full run; intervals resample prompts. Other ways spend at least as many FLOPs as the plan, "
        f"or 2 % less; their FLOPs ratio is {SPARING} or more, or within {100 * MORE - 100:.0f} % of the plan's. FLOPs "
        "are the mean over all samples. Settings were chosen on the select split; every family was swept until the "
        "neighbours of its best settings were tried, each on a network proven untouched. Wall time and memory are of "
        "one batch, in turn with the full run, for plans and what they are compared with.\n\n"
        "![agreement over compute](bench.png)\n\n"
    )
    bench.write(folder)
    write_text(folder / "bench.csv", to_csv(rows))
    dots = [Dot(row.family, row.result.flops_ratio, row.result.psnr_db) for row in rows if row.result]
    ours = [dot for dot in dots if dot.family == OURS]
    draw_front(ours, [dot for dot in dots if dot.family != OURS], folder / "bench.png", _faint(bench.sweeps))
    write_text(folder / "bench.md", head + to_markdown(bench))
    return folder / "bench.md"


def _faint(sweeps: Sequence[Sweep]) -> list[Dot]:
    return [Dot(s.family, s.flops_ratio, s.mean_db) for one in sweeps for s in one.tried if not s.error]


def _searched(options: BenchOptions) -> list[tuple[str, Plan]]:
    """Plans for the budgets, made in the bench's folder; what is there is not made again."""
    if not options.budgets:
        return []
    usual = QUICK_LIMITS if options.quick else LIMITS
    limits = replace(
        usual,
        model=options.model,
        seed=options.seed,
        rollouts=options.rollouts or usual.rollouts,
        iterations=options.iterations or usual.iterations,
    )
    paths = search_plans(options.budgets, _traced(options), limits, options.folder / "plans")
    budgets = parse_budgets(options.budgets)
    return [(f"HyCa plan {budget.text}", load_plan(path)) for budget, path in zip(budgets, paths, strict=True)]


def _trace(options: BenchOptions, point: str) -> str:
    wanted = TraceOptions(
        model=options.model,
        prompts=options.prompts,
        samples=options.samples,
        seed=options.seed,
        steps=options.steps,
        batch=options.batch,
    )
    return trace_model(replace(wanted, point=point, out=options.folder / f"{short_name(point)}.zarr"))


def _traced(options: BenchOptions) -> list[str]:
    """Paths of traces at those points that the network has.

    Raises:
        AttachError: it has none of them.
    """
    found, refused = list[str](), list[AttachError]()
    for point in options.looked_at:
        try:
            found.append(_trace(options, point))
        except AttachError as error:
            refused.append(error)
    if not found:
        raise refused[0]
    for reason in refused:
        say(f"passed over: {reason}")
    return found
