"""What each command does, without the option parsing: files in, files out, progress on the console."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from hyca_calib.bench import Row, bench_peers, bench_plans, to_markdown
from hyca_calib.budget import Budget, parse_budgets
from hyca_calib.console import console, counting, human_bytes, stages
from hyca_calib.demo import demo_prompts
from hyca_calib.evaluate import Evaluation, evaluate_plan
from hyca_calib.models import default_device, load_pipeline
from hyca_calib.provenance import versions
from hyca_calib.report.write import write_report
from hyca_calib.search.confirm import Confirmation
from hyca_calib.search.refine import Refinement
from hyca_calib.search.run import SearchOptions, search
from hyca_calib.search.tune import Tuning
from hyca_calib.study import Study
from hyca_calib.trace.run import trace
from hyca_calib.trace.store import Trace, newest_trace
from hyca_calib.workload import Workload, read_prompts
from hyca_calib.zoo import MODELS, PIPELINES
from hyca_calib.zoo.check import Verdict
from hyca_calib.zoo.table import POINTS, check_all
from hyca_calib.zoo.table import to_markdown as models_markdown
from hyca_runtime import Plan, PlanError, load_plan, save_plan
from hyca_runtime.errors import WorkloadError
from hyca_runtime.plan import merge_plans
from hyca_runtime.point import parse_point
from hyca_runtime.recipe import OnMismatch

__all__ = [
    "Limits",
    "bench_all",
    "bench_runtime",
    "check_models",
    "evaluate_file",
    "merge_files",
    "report_study",
    "run_demo",
    "search_plans",
    "trace_model",
]

TRACES, STUDIES = Path("traces"), Path("studies")


@dataclass(frozen=True)
class Limits:
    """Options of one search; minutes for `confirm` and `refine`, seconds for `timeout`."""

    trials: int = 40
    timeout: float = 45.0
    confirm: float = 1.0
    refine: float = 5.0
    groups: int | None = None
    taps: Literal["channel", "group"] = "channel"
    seed: int = 0

    def options(self) -> SearchOptions:
        return SearchOptions(
            tuning=Tuning(self.trials, self.timeout, self.groups),
            confirmation=Confirmation(self.confirm),
            refinement=Refinement(self.refine),
            taps=self.taps,
            seed=self.seed,
        )


def trace_model(
    model: str,
    prompts: Path | None,
    samples: int,
    seed: int,
    steps: int,
    tokens: int,
    point: str,
    component: str,
    out: Path | None,
    batch: int | None,
    overwrite: bool,
) -> Path:
    """``hyca_calib trace``; returns the trace's path."""
    workload = Workload(_prompts(model, prompts), samples, steps, seed)
    where = parse_point(point)
    path = out or TRACES / f"{_short(model)}-{_short(point)}{_suffix(component)}-{steps}.zarr"
    pipe = load_pipeline(model)

    def state_size(size: int) -> None:
        console.print(f"{path}: {len(workload.jobs)} samples, at most {human_bytes(size)}", soft_wrap=True)

    with counting("trace", len(workload.jobs)) as advance:
        trace(
            pipe,
            workload,
            where,
            path,
            model_name=model,
            batch=_batch(model, batch),
            tokens=tokens,
            component=component,
            overwrite=overwrite,
            on_size=state_size,
            on_samples=advance,
        )
    return path


def search_plans(
    budgets: str, trace_path: Path | None, prompts: Path | None, limits: Limits, out: Path | None
) -> list[Path]:
    """``hyca_calib search``; returns the paths of the plans."""
    wanted = parse_budgets(budgets)
    path = trace_path or newest_trace(TRACES)
    recorded = Trace(path)
    for budget in wanted:  # refuse all before any work is done
        budget.computed_steps(recorded.cost, recorded.num_steps, 3)
    workload = _workload_of(recorded.attributes, recorded.attributes["model"]["name"], prompts)
    recorded.check_workload(workload)
    folder = out or STUDIES / f"{path.stem}-{'-'.join(b.text for b in wanted)}"
    folders = [folder if len(wanted) == 1 else folder / budget.text for budget in wanted]
    studies = [Study.open(where, _request(path, b, limits)) for where, b in zip(folders, wanted, strict=True)]
    pipe = None
    for study, budget in zip(studies, wanted, strict=True):
        if study.complete and study.report.exists():
            console.print(f"{study.folder}: complete already", soft_wrap=True)
            continue
        pipe = pipe or load_pipeline(recorded.attributes["model"]["name"])
        if not study.complete:
            console.print(f"budget {budget.text} -> {study.folder}", soft_wrap=True)
            with stages(("tune", "confirm", "refine")) as tell:
                search(pipe, recorded, workload, budget, study, limits.options(), tell)
        write_report(pipe, study, recorded, workload, load_plan(study.plan))
        console.print(f"report: {study.report}", soft_wrap=True)
    return [study.plan for study in studies]


def evaluate_file(
    plan_path: Path,
    model: str,
    prompts: Path | None,
    samples: int | None,
    batch: int | None,
    steps: int | None = None,
    on_mismatch: OnMismatch = "error",
) -> Evaluation:
    """``hyca_calib evaluate``; the model is the caller's choice, never the plan's."""
    plan = load_plan(plan_path)
    workload = _workload_of(plan.provenance, model, prompts)
    jobs = workload.of("test")[:samples]
    pipe = load_pipeline(model)
    console.print(f"{len(jobs)} test samples, full run and plan ...")
    return evaluate_plan(pipe, plan, jobs, steps or workload.num_steps, _batch(model, batch), None, on_mismatch)[0]


def report_study(folder: Path, prompts: Path | None) -> Path:
    """``hyca_calib report``."""
    study = Study(folder)
    study.read_result()
    plan = load_plan(study.plan)
    recorded = Trace(Path(_from_provenance(plan, "trace")))
    workload = _workload_of(recorded.attributes, recorded.attributes["model"]["name"], prompts)
    return write_report(load_pipeline(recorded.attributes["model"]["name"]), study, recorded, workload, plan)


def bench_all(
    plan_paths: Sequence[Path],
    model: str,
    prompts: Path | None,
    samples: int,
    seed: int,
    steps: int,
    only: Sequence[str],
    out: Path,
    batch: int | None,
) -> Path:
    """``hyca_calib bench``; returns the path of the table."""
    plans = [(f"{path.parent.name}", load_plan(path)) for path in plan_paths]
    workload = Workload(_prompts(model, prompts), samples, steps, seed)
    pipe, size = load_pipeline(model), _batch(model, batch)

    def tell(row: Row) -> None:
        found = f"{row.result.flops_ratio:5.2f}x {row.result.psnr_db:6.2f} dB" if row.result else row.error
        console.print(f"{found}  {row.method}", soft_wrap=True)

    rows, full = bench_peers(pipe, workload, size, only, tell)
    for row in bench_plans(pipe, plans, workload, size, full):
        rows.append(row)
        tell(row)
    out.mkdir(parents=True, exist_ok=True)
    device = str(next(pipe.transformer.parameters()).device)
    facts = {
        "model": model,
        "device": device,
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "workload": workload.describe(),
        "batch": size,
        "versions": versions(),
        "rows": [asdict(row) for row in rows],
    }
    (out / "bench.json").write_text(json.dumps(facts, indent=1) + "\n")
    head = (
        f"{len(workload.of('test'))} test prompts of `{model}`, {steps} steps, seed {seed}, batch {size}, {device} "
        f"with {torch.get_num_threads()} threads, torch {torch.__version__}. "
        "Margin: PSNR above the best peer that spends at least as many FLOPs.\n\n"
    )
    (out / "bench.md").write_text(head + to_markdown(rows))
    return out / "bench.md"


def bench_runtime(only: Sequence[str], out: Path) -> Path:
    """``hyca_calib bench runtime``; returns the path of the figures."""
    from hyca_calib import runtime_bench

    device = default_device()
    on_gpu = device.startswith("cuda")
    dtype = torch.bfloat16 if on_gpu else torch.float32
    names = ("flux-dev", "qwen-image", "hunyuan-video") if on_gpu else ("flux-100m",)
    shapes = [(1, 4096, 3072), (1, 25216, 3072)] if on_gpu else [(1, 1024, 768), (1, 4096, 3072)]
    facts: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if on_gpu else platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "sum": [
            asdict(runtime_bench.measure_sum(shape, dtype, taps, device)) for shape in shapes for taps in (2, 3, 4)
        ],
        "overhead": asdict(runtime_bench.measure_overhead(device)),
        "realised": [],
    }
    for name in only or names:
        console.print(f"{name}: full and planned runs in turn ...")
        steps, computed = (50, tuple(range(0, 50, 5))) if on_gpu else (20, (0, 5, 10, 15))
        facts["realised"].append(asdict(runtime_bench.measure_realised(name, steps, computed, device, dtype)))
        console.print(facts["realised"][-1])
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"runtime-{'cuda' if on_gpu else 'cpu'}.json"
    path.write_text(json.dumps(facts, indent=1) + "\n")
    return path


def merge_files(paths: Sequence[Path], out: Path) -> Path:
    """``hyca_calib merge``; returns the path of the merged plan."""
    plans = [load_plan(path) for path in paths]
    save_plan(merge_plans(plans, "+".join(dict.fromkeys(plan.name for plan in plans))), out)
    return out


def check_models(only: Sequence[str], compiled: bool, out: Path | None) -> str:
    """``hyca_calib models``; returns the table."""

    def tell(verdict: Verdict) -> None:
        if not verdict.good:
            console.print(f"{verdict.name}, {verdict.point}: {verdict.results}", soft_wrap=True)
        advance(1)

    names = [name for name in (*MODELS, *PIPELINES) if not only or any(part in name for part in only)]
    if not names:
        raise WorkloadError(f"no model or pipeline has {' or '.join(only)} in its name")
    with counting("check", len(names) * len(POINTS)) as advance:
        table = models_markdown(*check_all(only, compiled, tell))
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(table)
    return table


def run_demo(budget: str, minutes: float, out: Path | None) -> tuple[Evaluation, Path]:
    """``hyca_calib demo``; returns the figures and the picture."""
    begun = time.monotonic()
    parse_budgets(budget)
    path = TRACES / "demo-trunk-50.zarr"
    if path.exists():
        console.print(f"{path}: traced already", soft_wrap=True)
    else:
        trace_model("demo", None, 112, 0, 50, 16, "trunk", "transformer", path, None, False)
    limits = Limits(timeout=30.0, confirm=0.2 * minutes, refine=0.8 * minutes)
    plan_path = search_plans(budget, path, None, limits, out or STUDIES / f"demo-{budget.replace(',', '-')}")[-1]
    result = evaluate_file(plan_path, "demo", None, None, None)
    console.print(f"{(time.monotonic() - begun) / 60:.1f} minutes in all")
    return result, plan_path.parent / "pictures" / "wall.png"


def _prompts(model: str, path: Path | None) -> tuple[dict[str, Any], ...]:
    if path is not None:
        return read_prompts(path)
    if model != "demo":
        raise WorkloadError(f"model {model!r} has no prompts of its own; give --prompts FILE")
    return demo_prompts()


def _workload_of(facts: dict[str, Any], model: str, prompts: Path | None) -> Workload:
    """The workload a trace or a plan was made on, its prompts read again."""
    try:
        made = facts["workload"]
        workload = Workload(_prompts(model, prompts), made["num_samples"], made["num_steps"], made["seed"])
    except (KeyError, TypeError) as error:
        raise PlanError(f"it does not say which workload it was made on: {error} is missing") from error
    if workload.digest != made["digest"]:
        raise WorkloadError("these are not the prompts it was made on; give the same --prompts file")
    return workload


def _from_provenance(plan: Plan, key: str) -> Any:
    if "merged" in plan.provenance:
        raise PlanError(f"plan {plan.name!r} is merged from several; use those one by one")
    if key not in plan.provenance:
        raise PlanError(f"plan {plan.name!r} does not say its {key}; give it as an option")
    return plan.provenance[key]


def _request(trace_path: Path, budget: Budget, limits: Limits) -> dict[str, Any]:
    return {"trace": str(trace_path), "budget": budget.text, "limits": asdict(limits)}


def _batch(model: str, batch: int | None) -> int:
    return batch or (8 if model == "demo" else 1)


def _short(model: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "-" for c in Path(model).name)


def _suffix(component: str) -> str:
    return "" if component == "transformer" else f"-{component}"
