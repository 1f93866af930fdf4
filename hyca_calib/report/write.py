"""A study as a page: ``report.html``, self-contained, and ``report.md`` beside its pictures."""

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, select_autoescape
from rich.table import Table

from hyca_calib.records.atomic import write_text
from hyca_calib.report import plots
from hyca_calib.report.figures import ReportFigures, figures_in
from hyca_calib.report.looks import error_shown, shown
from hyca_calib.report.regrouping import regrouped
from hyca_calib.report.steps import (
    chunks_of,
    told_budget,
    told_by_chunk,
    told_certificate,
    told_kept,
    told_points,
    told_sources,
)
from hyca_calib.report.tiles import AMPLIFY, strip
from hyca_calib.report.wall import Wall, draw_wall
from hyca_calib.search.problem import Problem
from hyca_calib.search.study import StudyFolder
from hyca_calib.trace.store import Trace
from hyca_runtime import Plan, PlanError, load_plan
from hyca_runtime.network_plan import NetworkPlan
from hyca_runtime.schedule import FEATURE

WALL_SAMPLES = 8
TINY = 1e-30

Followed = dict[str, tuple[str, Problem, NetworkPlan]]
"""By what its pictures end with: which chunks a section is for, "" for all, its trace, and itself."""


@dataclass(frozen=True)
class Summary:
    """What a report says, in a few lines: one plan beside what costs as much."""

    plan: str
    page: Path
    wall: Wall

    def table(self) -> Table:
        """The plan and its baselines, for people at a terminal."""
        wall = self.wall
        faster, held = wall.full.seconds / wall.plan.seconds, wall.cache_bytes / 2**20
        caption = f"{faster:.1f}x faster here, {held:.3g} MiB of features held"
        caption += f", {wall.key_bytes / 2**20:.3g} MiB of keys and values" if wall.key_bytes else ""
        found = Table("", "computes", "FLOPs", f"{wall.measure} to the full run", title=self.plan, caption=caption)
        if wall.others_run:
            found.add_column("FLOPs of all that runs")
        for tile in (wall.plan, *wall.baselines):
            cells = [tile.name, tile.told, f"1/{tile.flops_ratio:.2f}", f"{tile.mean_db:.1f} dB"]
            cells += [f"1/{tile.steps_flops_ratio:.2f}"] if wall.others_run else []
            found.add_row(*cells, style="bold" if tile is wall.plan else "")
        return found


def write_report(
    pipe: Any,
    study: StudyFolder,
    traces: Sequence[Trace],
    on_progress: Callable[[float, str], None] = lambda share, news: None,
) -> Summary:
    """Draw every picture and write both files and the figures; returns what they say in a few lines.

    Args:
        traces: that the study's plan was made on; several where it has sections for some of a video's chunks.
    """
    result, plan = study.read_result(), load_plan(study.plan)
    problems = sorted(map(Problem, traces), key=_start)
    workload, section = problems[0].workload, plan.sections[0]
    wall = draw_wall(pipe, workload.of("select")[:WALL_SAMPLES], workload.num_steps, plan, on_progress)
    on_progress(1.0, "")
    followed = _followed(plan, problems)
    folder = _draw(study, followed, problems[0], wall, plan, result)
    content = {
        "plan": plan,
        "section": section,
        "result": result,
        "wall": wall,
        "computed": told_by_chunk(plan, _computed),
        "points": told_by_chunk(plan, told_points),
        "sources": told_by_chunk(plan, told_sources),
        "certificate": told_by_chunk(plan, partial(told_certificate, plan=plan)),
        "followed": {name: of for name, (of, _, _) in followed.items()},
        "kept": told_kept(plan),
        "asked": told_budget(plan),
        "solvers": _solver_table(section, result),
        "amplify": AMPLIFY,
    }
    environment = Environment(
        loader=PackageLoader("hyca_calib.report"), autoescape=select_autoescape(), trim_blocks=True, lstrip_blocks=True
    )
    linked = {path.stem: path.relative_to(study.folder).as_posix() for path in sorted(folder.glob("*.png"))}
    inline = {
        path.stem: f"data:image/svg+xml;base64,{base64.b64encode(path.read_bytes()).decode()}"
        for path in sorted(folder.glob("*.svg"))
    }
    rows = [
        {
            "caption": caption,
            "pictures": strip([shown(tile.samples[i], full) for tile in wall.columns]),
            "differences": strip(
                [shown(full, full), *(error_shown(tile.samples[i], full) for tile in wall.columns[1:])]
            ),
            "agreement_db": [tile.agreement_db[i] if tile.agreement_db else None for tile in wall.columns],
        }
        for i, (caption, full) in enumerate(zip(wall.captions, wall.full.samples, strict=True))
    ]
    markdown, page = (environment.get_template(name) for name in ("report.md", "report.html"))
    drawn = wall.plan
    ReportFigures(
        flops_ratio=drawn.flops_ratio, agreement_db=drawn.mean_db, measure=wall.measure, num_samples=len(wall.captions)
    ).write(study.folder)
    write_text(study.folder / "report.md", markdown.render(**content, pictures=linked))
    write_text(study.report, page.render(**content, pictures=inline, rows=rows))
    return Summary(plan.name, study.report, wall)


def _followed(plan: Plan, problems: Sequence[Problem]) -> Followed:
    """What the traces tell of the plan's forecasts."""
    found = Followed()
    for number, section in enumerate(plan.sections):
        for problem in problems:
            own = section.places == {FEATURE: problem.trace.point} and (section.from_chunk or 0) == _start(problem)
            if own and section.policy is None and section.schedule.predicted_steps:
                of = chunks_of(section) if len(plan.sections) > 1 else ""
                found[f"-{number}" if number else ""] = of, problem, section
    return found


def _start(problem: Problem) -> int:
    """The first chunk that was traced, 0 of what is not in chunks."""
    chunks = problem.trace.attributes.chunks
    return (chunks and chunks.from_chunk) or 0


def _computed(section: NetworkPlan) -> str:
    """The steps on which all of the network is computed."""
    return f"{', '.join(map(str, section.schedule.computed_steps))} of {section.schedule.num_steps}"


def _draw(
    study: StudyFolder, followed: Followed, problem: Problem, wall: Wall, plan: Plan, result: dict[str, Any]
) -> Path:
    """Draw every picture; returns their folder.

    Args:
        problem: on which the groups were found.
    """
    folder = study.folder / "pictures"
    plots.schedule_strip(plan, folder / "schedule.png")
    for name, (_, own, section) in followed.items():
        plots.error_map(own, section, folder / f"errors{name}.png")
        plots.trajectories(own, section, folder / f"trajectories{name}.png")
    if result["candidates"]:
        costs, psnrs = [c["cost"] for c in result["candidates"]], [r["psnr_db"] for r in result["rollouts"]]
        plots.trials_plot(costs, psnrs, folder / "tried.png")
    if found := regrouped(problem, result["settings"], problem.workload.seed):
        plots.agreement_map(*found, folder / "agreement.png")
    plots.front_plot(wall, siblings(study, plan.sections[0]), folder / "front.png")
    plots.picture_wall(wall, folder / "wall.png")
    return folder


def siblings(study: StudyFolder, own: NetworkPlan) -> list[tuple[float, float]]:
    """FLOPs ratio and agreement of each plan of the same model for another budget, as the reports in the folder above
    have them."""
    found = []
    for path in sorted(study.folder.parent.glob("*/plan.json")):
        if path == study.plan:
            continue
        try:
            section = load_plan(path).sections[0]
        except PlanError:
            continue
        figures = figures_in(path.parent)
        if figures and (section.model, section.grid) == (own.model, own.grid):
            found.append((figures.flops_ratio, figures.agreement_db))
    return found


def _solver_table(section: NetworkPlan, result: dict[str, Any]) -> list[dict[str, Any]]:
    """For each group its size, the solver chosen on replay, and how much worse the others were.

    A published recipe chose without a replay: its comparisons are empty.
    """
    rows: list[dict[str, Any]] = []
    costs: dict[str, list[float]] = result["solver_costs"]
    total = sum(min(column) for column in zip(*costs.values(), strict=True)) or TINY
    named = [(name, group) for name, forecast in section.points.items() for group in forecast.groups_of()]
    for g, ((point, group), chosen) in enumerate(zip(named, result["groups"], strict=False)):
        name = group.name if point == FEATURE else f"{point}, {group.name}"
        row = {"name": name, "size": group.indices.size, "solver": chosen["solver"]}
        rows.append(row | {"share": "", "runner_up": "", "factor": ""})
        if costs:
            best = min(values[g] for values in costs.values()) or TINY
            closed = {name: values[g] for name, values in costs.items() if name != "fitted"}
            runner_up = min(closed, key=lambda name: closed[name])
            factor = f"{closed[runner_up] / best:.2f}"
            rows[-1] |= {"share": f"{100 * best / total:.1f}%", "runner_up": runner_up, "factor": factor}
    return rows
