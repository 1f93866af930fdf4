"""The bench: plans that are given or made, and every peer, in one run; tables and a picture."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import torch

from hyca_calib.bench import (
    MORE,
    OURS,
    PUBLISHED,
    SPARING,
    Dot,
    Reference,
    Row,
    bench_peers,
    bench_plans,
    draw_front,
    published_plans,
    to_csv,
    to_markdown,
)
from hyca_calib.budget import parse_budgets
from hyca_calib.commands.searching import STUDIES, Limits, search_plans
from hyca_calib.commands.tracing import TraceOptions, short_name, trace_model
from hyca_calib.console import growing, say
from hyca_calib.defaults import batch_of, prompts_of
from hyca_calib.demo.judge import load_judge
from hyca_calib.models import load_pipeline
from hyca_calib.provenance import versions
from hyca_calib.search.problem import Problem
from hyca_calib.trace.store import Trace
from hyca_calib.workload import Workload
from hyca_runtime import AttachError, Plan, load_plan

__all__ = ["BenchOptions", "bench_all"]

LIMITS = Limits(confirm=2.0)
QUICK_LIMITS = Limits(trials=8, timeout=20.0, confirm=0.3, refine=0.3, probes=8)
"""Of the search for plans."""
POINTS = ("trunk", "trunk:residual")
"""Where it looks unless told; a quick one at the first."""
QUICK_SETTINGS = 3
"""Of each family of peers."""

JUDGED = (
    " Fréchet: distance to real pictures in the features of a small classifier (`hyca_calib/demo/judge`), less is "
    "better; recognised: share of the words or classes asked for that it finds; neither looks at the full run."
)


@dataclass(frozen=True)
class BenchOptions:
    """Options of ``hyca_calib bench``.

    Attributes:
        plans: to compare.
        budgets: plans for these are searched first, on traces of the same workload; as for search.
        points: where those look, `POINTS` if empty; rollouts decide.
        only: parts of peer names.
        quick: a small search, and few settings of each peer.
    """

    plans: Sequence[Path] = ()
    budgets: str | None = None
    points: Sequence[str] = ()
    model: str = "demo"
    prompts: Path | None = None
    samples: int = 112
    seed: int = 0
    steps: int = 50
    only: Sequence[str] = ()
    out: Path | None = None
    batch: int | None = None
    quick: bool = False

    @property
    def looked_at(self) -> Sequence[str]:
        """Points of a search."""
        return self.points or POINTS[: 1 if self.quick else None]

    @property
    def folder(self) -> Path:
        """Where everything goes; a search of its own stays out of the published results."""
        own = f"bench-{short_name(self.model)}" if self.budgets else "bench"
        return self.out or STUDIES / own


def bench_all(options: BenchOptions) -> Path:
    """``hyca_calib bench``; returns the path of the table."""
    workload = Workload(prompts_of(options.model, options.prompts), options.samples, options.steps, options.seed)
    traces = _traced(options) if options.budgets else []
    plans = [(f"HyCa plan {path.parent.name}", load_plan(path)) for path in options.plans]
    plans += _searched(options, traces)
    pipe, size = load_pipeline(options.model), batch_of(options.model, options.batch)

    def tell(row: Row) -> None:
        found = f"{row.result.flops_ratio:5.2f}x {row.result.psnr_db:6.2f} dB" if row.result else row.error
        say(f"{found}  {row.method}")

    most = QUICK_SETTINGS if options.quick else None
    work = options.folder / "measured"
    reference = Reference.of(pipe, workload, size, load_judge(options.model), work)
    rows = [reference.own_row]
    tell(rows[0])
    with growing() as progress:
        news = partial(progress, "choosing settings of peers")
        rows += bench_peers(reference, workload, options.only, tell, most, news)
    for family, named in ((PUBLISHED, _published(options, traces)), (OURS, plans)):
        for row in bench_plans(reference, named, family):
            rows.append(row)
            tell(row)
    device = str(next(pipe.transformer.parameters()).device)
    facts = {
        "model": options.model,
        "device": device,
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "workload": workload.describe(),
        "batch": size,
        "versions": versions(),
        "rows": [asdict(row) for row in rows],
    }
    head = (
        f"{len(workload.of('test'))} test prompts of `{options.model}`, {options.steps} steps, seed {options.seed}, "
        f"batch {size}, {device}, threads: {torch.get_num_threads()}, torch {torch.__version__}. "
        "PSNR and SSIM are to the full run. Other ways spend at least as many FLOPs as the plan, or 2 % less; "
        f"their FLOPs ratio is {SPARING} or more, or within {100 * MORE - 100:.0f} % of the plan's. Settings were "
        "chosen on the select split. Peak: memory of the run beyond what the process held before."
        f"{JUDGED if reference.judge else ''}\n\n![agreement over compute](bench.png)\n\n"
    )
    out = options.folder
    out.mkdir(parents=True, exist_ok=True)
    (out / "bench.json").write_text(json.dumps(facts, indent=1) + "\n")
    (out / "bench.csv").write_text(to_csv(rows))
    dots = [Dot(row.family, row.result.flops_ratio, row.result.psnr_db) for row in rows if row.result]
    ours, recipes = ([dot for dot in dots if dot.family == family] for family in (OURS, PUBLISHED))
    others = [dot for dot in dots if dot.family not in (OURS, PUBLISHED)]
    draw_front(ours, others, out / "bench.png", recipes)
    (out / "bench.md").write_text(head + to_markdown(rows))
    return out / "bench.md"


def _published(options: BenchOptions, traces: Sequence[str]) -> list[tuple[str, Plan]]:
    """The paper's recipe at the same budgets, on the first trace."""
    if not options.budgets:
        return []
    return published_plans(Problem(Trace(traces[0])), parse_budgets(options.budgets), options.seed)


def _searched(options: BenchOptions, traces: Sequence[str]) -> list[tuple[str, Plan]]:
    """Plans for the budgets, made in the bench's folder; what is there is not made again."""
    if not options.budgets:
        return []
    limits = replace(QUICK_LIMITS if options.quick else LIMITS, model=options.model, seed=options.seed)
    paths = search_plans(options.budgets, traces, limits, options.folder / "plans")
    budgets = parse_budgets(options.budgets)
    return [(f"HyCa plan {budget.text}", load_plan(path)) for budget, path in zip(budgets, paths, strict=True)]


def _traced(options: BenchOptions) -> list[str]:
    """Paths of traces at those points that the network has.

    Raises:
        AttachError: it has none of them.
    """
    wanted = TraceOptions(
        model=options.model,
        prompts=options.prompts,
        samples=options.samples,
        seed=options.seed,
        steps=options.steps,
        batch=options.batch,
    )
    found, refused = list[str](), list[AttachError]()
    for point in options.looked_at:
        try:
            found.append(trace_model(replace(wanted, point=point, out=options.folder / f"{short_name(point)}.zarr")))
        except AttachError as error:
            refused.append(error)
    if not found:
        raise refused[0]
    for reason in refused:
        say(f"passed over: {reason}")
    return found
