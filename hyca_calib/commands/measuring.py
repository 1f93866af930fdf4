"""Benches and checks: what a command measures, written where people look."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from hyca_calib.bench import Row, bench_peers, bench_plans, draw_front, to_csv, to_markdown
from hyca_calib.console import counting, say
from hyca_calib.defaults import batch_of, prompts_of
from hyca_calib.models import default_device, load_pipeline
from hyca_calib.provenance import versions
from hyca_calib.workload import Workload
from hyca_calib.zoo import MODELS, PIPELINES
from hyca_calib.zoo.check import Verdict
from hyca_calib.zoo.table import POINTS, check_all
from hyca_calib.zoo.table import to_markdown as models_markdown
from hyca_runtime import load_plan
from hyca_runtime.errors import WorkloadError

__all__ = ["bench_all", "bench_runtime", "check_models"]


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
    workload = Workload(prompts_of(model, prompts), samples, steps, seed)
    pipe, size = load_pipeline(model), batch_of(model, batch)

    def tell(row: Row) -> None:
        found = f"{row.result.flops_ratio:5.2f}x {row.result.psnr_db:6.2f} dB" if row.result else row.error
        say(f"{found}  {row.method}")

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
    (out / "bench.csv").write_text(to_csv(rows))
    draw_front(rows, out / "bench.png")
    head = (
        f"{len(workload.of('test'))} test prompts of `{model}`, {steps} steps, seed {seed}, batch {size}, {device} "
        f"with {torch.get_num_threads()} threads, torch {torch.__version__}. "
        "Margin: PSNR above the best peer that spends at least as many FLOPs, by sample, and its 95 % interval.\n\n"
        "![agreement over compute](bench.png)\n\n"
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
        say(f"{name}: full and planned runs in turn ...")
        steps, computed = (50, tuple(range(0, 50, 5))) if on_gpu else (20, (0, 5, 10, 15))
        facts["realised"].append(asdict(runtime_bench.measure_realised(name, steps, computed, device, dtype)))
        say(facts["realised"][-1])
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"runtime-{'cuda' if on_gpu else 'cpu'}.json"
    path.write_text(json.dumps(facts, indent=1) + "\n")
    return path


def check_models(only: Sequence[str], compiled: bool, out: Path | None) -> str:
    """``hyca_calib models``; returns the table."""

    def tell(verdict: Verdict) -> None:
        if not verdict.good:
            say(f"{verdict.name}, {verdict.point}: {verdict.results}")
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
