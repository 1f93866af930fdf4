"""The bench of published recipes: a plan of each at every budget, beside plans that were searched."""

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hyca_calib.baselines.score import Score, reason
from hyca_calib.bench.choice import is_wanted
from hyca_calib.bench.comparison import HARNESS
from hyca_calib.bench.documents.front import draw_front
from hyca_calib.bench.documents.preset_tables import preset_tables
from hyca_calib.bench.isolation import CleanPipeline
from hyca_calib.bench.notebook import Notebook
from hyca_calib.bench.preset_results import (
    PRESET_PICTURE,
    PRESET_RESULTS,
    PresetFacts,
    PresetFigures,
    PresetRow,
    PresetTable,
    read_presets,
)
from hyca_calib.bench.preset_runs import MeasuredSplit
from hyca_calib.commands.bench_options import BenchOptions
from hyca_calib.commands.benching import trace_of
from hyca_calib.commands.options import STUDIES, SearchLimits, short_name
from hyca_calib.commands.presets import OFFERS
from hyca_calib.commands.searching import preset_study, search_preset_study
from hyca_calib.costs.budget import Budget, parse_budgets
from hyca_calib.pipelines.contract import check_calls
from hyca_calib.pipelines.defaults import batch_of
from hyca_calib.pipelines.load import load_traced
from hyca_calib.pipelines.rollout import runs_on
from hyca_calib.quality.metrics import prompt_groups
from hyca_calib.records.atomic import write_text
from hyca_calib.records.console import say
from hyca_calib.records.origins import origins
from hyca_calib.records.provenance import Provenance, provenance, versions
from hyca_calib.search.sources import ADAPTIVE, BEST, CACHEQUANT, DBCACHE, LEARNING_TO_CACHE, PACKCACHE, QUANTCACHE
from hyca_calib.trace.store import Trace
from hyca_runtime import Plan, load_plan
from hyca_runtime.errors import BudgetError, TraceError, WorkloadError
from hyca_runtime.plan import plan_file

BUDGETS, SAMPLES = "1.5x,2x,3x,5x,8x,10x", 12
"""Columns and test samples, unless told."""
POINTS = "trunk,output"
"""Of the trace, unless one is given; fitted rows of step caches need more of them, such as behind:1."""
ELSEWHERE = (BEST, CACHEQUANT, PACKCACHE, QUANTCACHE)
"""No lines: plans that are searched are given, and what quantises or leaves keys out does not save FLOPs."""
MORE_LINES: dict[str, dict[str, Any]] = {
    f"{LEARNING_TO_CACHE} --free": {"preset": LEARNING_TO_CACHE, "free": True},
    f"{DBCACHE} --order 1": {"preset": DBCACHE, "order": 1},
    f"{DBCACHE} --fitted": {"preset": DBCACHE, "fitted": True},
    f"{ADAPTIVE} --response 0.4": {"preset": ADAPTIVE, "response": 0.4},
}
"""Lines beside those of every preset as it is: options of `SearchLimits`."""
PUBLISHED, PLAN = "HyCa, refined", ".plan.json"
"""The line of the plans that lie beside a published bench, and how their files end."""


@dataclass(frozen=True)
class Cell:
    """A place of the table, and how its plan comes about."""

    line: str
    budget: str
    static: bool
    plan: Callable[[Any], Plan]
    settings: Mapping[str, Any]


@dataclass
class Clock:
    """How long what is left may take, by what was done so far."""

    left: int
    _spent: list[float] = field(default_factory=list)

    def told(self, seconds: float, measured: bool) -> str:
        """What is left after one more that took so long; one that was measured before tells of none."""
        self._spent += [seconds] if measured else []
        self.left -= 1
        if not self._spent:
            return f"{self.left} left"
        return f"{self.left} left, about {math.ceil(self.left * statistics.fmean(self._spent) / 60)} min"


def bench_presets(options: BenchOptions) -> tuple[Path, int]:
    """``hyca_calib bench presets``; returns the path of the table, and how many of its cells failed now.

    Raises:
        BudgetError: a budget is malformed.
        StudyError: the folder holds studies of another request.
        WorkloadError: there is no preset of a name in `options.only`, or a plan is for none of the budgets.
    """
    folder = options.out or STUDIES / f"bench-{short_name(options.model)}"
    budgets, lines = parse_budgets(options.budgets or BUDGETS), _lines(options)
    trace = Trace(options.trace or trace_of(replace(options, out=folder, samples=None), POINTS))
    cells = [*_static(options, budgets, trace), *_of_presets(folder, trace, budgets, lines, options)]
    clean, samples, facts = _tested(options, trace)
    device = str(runs_on(clean.pipe))
    notebook = Notebook(
        folder, {**facts.model_dump(mode="json", exclude={"trace"}), "device": device, "versions": versions()}
    )
    modules = ("hyca_runtime", type(clean.pipe).__module__, *HARNESS, MeasuredSplit.__module__)
    table, clock, failed = _known(folder, facts), Clock(len(cells)), 0
    for cell in cells:
        begun = time.monotonic()
        row, measured = _row(cell, samples, notebook, modules, provenance(device))
        table, failed = table.having(row), failed + bool(row.error)
        table.write(folder)
        say(f"{_told(row)}  {row.line}, {row.budget}; {clock.told(time.monotonic() - begun, measured)}")
    return _written(folder, table), failed


def _lines(options: BenchOptions) -> dict[str, SearchLimits]:
    """How each line of the table is searched."""
    every: dict[str, dict[str, Any]] = {name: {"preset": name} for name in OFFERS if name not in ELSEWHERE}
    every |= MORE_LINES
    names = sorted(every, key=lambda name: ([*OFFERS].index(name.split()[0]), name))
    wanted = [name for name in names if is_wanted(name, names, options.only or ())]
    if not wanted:
        raise WorkloadError(f"no preset is called {' or '.join(options.only or ())}; there are {', '.join(names)}")
    usual = SearchLimits(seed=options.seed, model=options.model)
    found = {name: replace(usual, **every[name]) for name in wanted}
    return {name: replace(limits, **_effort(limits, options)) for name, limits in found.items()}


def _effort(limits: SearchLimits, options: BenchOptions) -> dict[str, Any]:
    """What a line may spend where something is learnt by gradient or by rollouts."""
    learnt = limits.preset in (LEARNING_TO_CACHE, ADAPTIVE) or limits.fitted
    found: dict[str, Any] = {"refine": options.minutes, "iterations": options.iterations} if learnt else {}
    return found | ({"rollouts": options.rollouts} if limits.preset == ADAPTIVE else {})


def _of_presets(
    folder: Path, trace: Trace, budgets: Sequence[Budget], lines: Mapping[str, SearchLimits], options: BenchOptions
) -> Iterator[Cell]:
    """A cell for every preset and budget; what a preset has tried or fitted for one budget serves all."""
    for line, limits in lines.items():
        own = folder / "presets" / short_name(line.replace(" --", "-").replace(" ", "-"))
        told: dict[str, Any] = {"seed": limits.seed}
        told |= {name: getattr(limits, name) for name in MORE_LINES.get(line, {})}
        told |= _effort(limits, options)
        for budget in budgets:
            preset_study(trace, budget, limits, own)  # another request is refused before any work

            def plan(pipe: Any, limits: SearchLimits = limits, own: Path = own, budget: Budget = budget) -> Plan:
                return load_plan(search_preset_study(pipe, trace, budget, limits, own))

            yield Cell(line, budget.text, False, plan, told)


def _static(options: BenchOptions, budgets: Sequence[Budget], trace: Trace) -> Iterator[Cell]:
    """Plans that were searched: those beside the published bench that were made on such samples, and what is given."""
    columns, made = [budget.text for budget in budgets], trace.workload().describe()
    alike = {"prompts_digest", "seed", "num_steps"}
    for budget in columns:
        path = STUDIES / "bench" / short_name(options.model) / f"{budget}{PLAN}"
        plan = load_plan(path) if path.exists() else None
        workloads = [origin.get("workload", {}) for origin in origins(plan.provenance)] if plan else []
        if any(workload.get(name) != getattr(made, name) for workload in workloads for name in alike):
            say(f"passed over: {path} was made on other prompts, steps or another seed than {trace.name}")
        elif plan:
            yield _given(PUBLISHED, budget, path, plan)
    for path in map(plan_file, options.plans or ()):
        plan = load_plan(path)
        asked = plan.provenance.get("budget", {}).get("asked", "")
        budget = next((name for name in (asked, path.parent.name, path.name.removesuffix(PLAN)) if name in columns), "")
        if not budget:
            told = f"is for the budget {asked!r}" if asked else "does not say its budget"
            raise WorkloadError(f"{path} {told}; expected one of {', '.join(columns)}, see --budget")
        yield _given(f"HyCa plan {path}", budget, path, plan)


def _given(line: str, budget: str, path: Path, plan: Plan) -> Cell:
    return Cell(line, budget, True, lambda _: plan, {"plan": str(path)})


def _tested(options: BenchOptions, trace: Trace) -> tuple[CleanPipeline, MeasuredSplit, PresetFacts]:
    """The traced model, and the samples of its test split."""
    workload, model = trace.workload(), trace.attributes.model
    jobs = workload.of("test")[: options.samples or SAMPLES]
    clean = CleanPipeline(lambda: load_traced(model, options.model), workload.of("fit")[0])
    check_calls(clean.pipe, workload.prompts)
    batch, groups = batch_of(options.model, options.batch), prompt_groups(jobs)
    say(f"{options.model}: {len(jobs)} test samples of {len(set(groups))} prompts, {workload.num_steps} steps")
    facts = PresetFacts(
        model=options.model,
        weights=model.weights_digest,
        trace=f"{Path(trace.where).name} at {trace.point}",
        workload=workload.describe(),
        batch=batch,
        groups=groups,
    )
    return clean, MeasuredSplit(clean, jobs, workload.num_steps, batch), facts


def _known(folder: Path, facts: PresetFacts) -> PresetTable:
    """The table that is there, if it is of the same samples."""
    if (folder / PRESET_RESULTS).exists():
        found = read_presets(folder)
        if found.facts == facts:
            return found
        say(f"{folder / PRESET_RESULTS}: of other samples; it is made anew")
    return PresetTable(facts)


def _row(
    cell: Cell, samples: MeasuredSplit, notebook: Notebook, modules: tuple[str, ...], made: Provenance
) -> tuple[PresetRow, bool]:
    """The row of a cell, and whether it was measured now. What fails or cannot be had is no error here."""
    empty, now = PresetRow(cell.line, cell.budget, cell.static, made, {"asked": cell.settings}), False
    try:
        plan = cell.plan(samples.clean.pipe)
    except (BudgetError, TraceError) as error:
        return replace(empty, unmet=str(error)), False
    except Exception as error:  # one recipe must not cost the others
        return replace(empty, error=reason(error)), True

    def measured() -> PresetRow:
        nonlocal now
        now = True
        settings = {"asked": cell.settings, "found": plan.provenance.get("settings", {})}
        return replace(empty, settings=settings, result=samples.figures(plan))

    content = plan.model_dump_json(include={"sections"})
    try:
        return notebook.recall(PresetRow, f"{cell.line}, {cell.budget}", measured, modules, plan=content), now
    except Exception as error:
        samples.clean.prove()
        return replace(empty, error=reason(error)), True


def _told(row: PresetRow) -> str:
    found: PresetFigures | None = row.result
    return f"{found.flops_ratio:5.2f}x {found.agreement_db:6.2f} dB" if found else row.error or row.unmet


def _written(folder: Path, table: PresetTable) -> Path:
    """The table as a page and as a picture; returns the page's path."""
    shown = [(row, row.result) for row in table.rows if row.result]
    ours, others = (
        [Score(r.line, r.line, f.flops_ratio, f.agreement_db_each) for r, f in shown if r.static == own]
        for own in (True, False)
    )
    picture, page = folder / PRESET_PICTURE, folder / "presets.md"
    draw_front(ours, others, picture, measure=shown[0][1].measure if shown else "PSNR")
    write_text(page, f"{preset_tables(table)}\n\n![agreement over compute]({picture.name})\n")
    return page
