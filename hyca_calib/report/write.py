"""A study as a page: ``report.html``, self-contained, and ``report.md`` beside its pictures."""

from __future__ import annotations

import base64
import math
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, select_autoescape
from torch import Tensor

from hyca_calib.metrics import compare_images
from hyca_calib.report import plots
from hyca_calib.rollout import sample_images
from hyca_calib.search.problem import Problem
from hyca_calib.study import Study
from hyca_calib.trace.store import Trace
from hyca_calib.workload import Workload
from hyca_runtime import Plan, apply_plan
from hyca_runtime.plan import Section

__all__ = ["write_report"]

WALL_SAMPLES = 8
AMPLIFY = 20
TINY = 1e-30


def write_report(pipe: Any, study: Study, trace: Trace, workload: Workload, plan: Plan) -> Path:
    """Draw every picture and write both files; returns the path of the HTML page."""
    result, problem = study.read_result(), Problem(trace)
    folder = study.folder / "pictures"
    section = plan.section
    plots.schedule_strip(section, folder / "schedule.png")
    if section.schedule.predicted_steps:
        plots.error_map(problem, section, folder / "errors.png")
        plots.trajectories(problem, section, folder / "trajectories.png")
    plots.trials_plot(
        [c["cost"] for c in result["candidates"]], [r["psnr_db"] for r in result["rollouts"]], folder / "tried.png"
    )
    figures = _draw_wall(pipe, workload, plan, folder / "wall.png")
    content = {
        "plan": plan,
        "section": section,
        "result": result,
        "figures": figures,
        "solvers": _solver_table(section, result),
        "computed": len(section.schedule.computed_steps),
        "steps": section.schedule.num_steps,
    }
    environment = Environment(
        loader=PackageLoader("hyca_calib.report"), autoescape=select_autoescape(), trim_blocks=True, lstrip_blocks=True
    )
    pictures = {path.stem: path for path in sorted(folder.glob("*.png"))}
    inline = {name: base64.b64encode(path.read_bytes()).decode() for name, path in pictures.items()}
    linked = {name: path.relative_to(study.folder).as_posix() for name, path in pictures.items()}
    (study.folder / "report.md").write_text(environment.get_template("report.md").render(**content, pictures=linked))
    page = study.report
    page.write_text(environment.get_template("report.html").render(**content, pictures=inline))
    return page


def _draw_wall(pipe: Any, workload: Workload, plan: Plan, path: Path) -> dict[str, float]:
    """Full run, plan, and fewer steps at the plan's cost, with their errors; mean PSNR of both."""
    jobs = workload.of("select")[:WALL_SAMPLES]
    section, steps, batch = plan.section, workload.num_steps, len(jobs)
    full, full_latents = sample_images(pipe, jobs, steps, batch)
    with apply_plan(pipe, plan):
        ours, our_latents = sample_images(pipe, jobs, steps, batch)
    ratio = (
        section.cost.flops_ratio if section.cost else section.schedule.num_steps / len(section.schedule.computed_steps)
    )
    fewer = math.ceil(steps / ratio)  # spends at least as many FLOPs as the plan
    cheap, cheap_latents = sample_images(pipe, jobs, fewer, batch)
    psnr_ours = compare_images(ours, full, our_latents, full_latents).psnr_db
    psnr_cheap = compare_images(cheap, full, cheap_latents, full_latents).psnr_db
    rows: list[tuple[str, Tensor, tuple[float, ...]]] = [
        (f"full\n{steps} steps", full, ()),
        (f"plan\n{ratio:.1f}x", ours, psnr_ours),
        (f"its error\nx {AMPLIFY}", _difference(ours, full), ()),
        (f"fewer\n{fewer} steps", cheap, psnr_cheap),
        (f"its error\nx {AMPLIFY}", _difference(cheap, full), ()),
    ]
    plots.picture_wall(rows, [str(job.call.get("prompt", job.index)) for job in jobs], path)
    return {"plan_psnr_db": float(np.mean(psnr_ours)), "fewer_psnr_db": float(np.mean(psnr_cheap)), "fewer": fewer}


def _difference(images: Tensor, reference: Tensor) -> Tensor:
    """Amplified absolute error, dark on white."""
    return 1 - (AMPLIFY * (images - reference)).abs()


def _solver_table(section: Section, result: dict[str, Any]) -> list[dict[str, Any]]:
    """For each group its size, the solver chosen on replay, and how much worse the others were.

    A published recipe chose without a replay: its comparisons are empty.
    """
    rows: list[dict[str, Any]] = []
    costs: dict[str, list[float]] = result["solver_costs"]
    total = sum(min(column) for column in zip(*costs.values(), strict=True)) or TINY
    for g, (group, chosen) in enumerate(zip(section.groups, result["groups"], strict=False)):
        row = {"name": group.name, "size": group.indices.size, "solver": chosen["solver"]}
        rows.append(row | {"share": "", "runner_up": "", "factor": ""})
        if costs:
            best = min(values[g] for values in costs.values()) or TINY
            closed = {name: values[g] for name, values in costs.items() if name != "fitted"}
            runner_up = min(closed, key=lambda name: closed[name])
            factor = f"{closed[runner_up] / best:.2f}"
            rows[-1] |= {"share": f"{100 * best / total:.1f}%", "runner_up": runner_up, "factor": factor}
    return rows
