"""Where to forecast: the trunk, the output, every block, or the rest of the network after some live blocks."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Any

from hyca_calib.costs.budget import Budget
from hyca_calib.pipelines.workload import Workload
from hyca_calib.quality.metrics import interval, prompt_groups
from hyca_calib.search.options import Refinement, RolloutLimits, SearchOptions, Tuning
from hyca_calib.search.problem import Problem
from hyca_calib.search.study import StudyFolder
from hyca_calib.search.tune import tune
from hyca_runtime.attach.points import find_blocks, find_transformer
from hyca_runtime.errors import BudgetError
from hyca_runtime.point import CachePoint
from studies.paper.chapter import Chapter, Claim, Context, Table, Verdict, finished, kept
from studies.paper.effects import Ratio, difference
from studies.paper.rollouts import psnr_db, searched, traced
from studies.paper.ruling import above, any_of, below, decide, listed, ruled, shared_level, told_db

BUDGETS = ("3x", "5x")
LIVE = (0, 1, 2, 4)
LIVE_EMBEDDING = "all blocks, over a live embedding"
SAMPLES = 56
MATTERS_DB = 0.2
OPENING = (
    "Each point is traced and searched on its own ({samples} samples), at equal FLOPs: where the first blocks run on "
    "every step, fewer steps can be computed. A span lies within one list of blocks, so of FLUX's two lists the first "
    "is live in all of them. `search` with several `--trace` options lets the rollouts of the confirmation decide."
)


def points(context: Context) -> Chapter:
    """The chapter. Traces and searches are kept in the folder: an interrupted run goes on where it stopped."""
    fewer = 14 if context.quick else min(SAMPLES, context.workload.num_samples)
    workload = replace(context.workload, num_samples=fewer)
    kinds = _kinds(context)
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for i, (name, point) in enumerate(kinds.items()):
        context.tell(i / len(kinds), name)
        found[name] = kept(context.folder / f"{name}.json", partial(_searched, context, workload, name, point))
    chapter = Chapter(
        name="points", title="Cache points", text=(OPENING.format(samples=fewer),), numbers={"points": found}
    )
    return finished(chapter, claims, tables)


def tables(numbers: dict[str, Any]) -> tuple[Table, ...]:
    """All points at each budget."""
    return tuple(_table(budget, _at(numbers["points"], budget)) for budget in BUDGETS)


def _at(found: dict[str, dict[str, dict[str, Any]]], budget: str) -> dict[str, dict[str, Any]]:
    """The points that can meet a budget."""
    return {name: rows[budget] for name, rows in found.items() if budget in rows}


def _kinds(context: Context) -> dict[str, CachePoint]:
    """The points by name."""
    blocks = find_blocks(find_transformer(context.pipe))
    last = [block.path for block in blocks if block.parent is blocks[-1].parent]
    before = len(blocks) - len(last)  # in other lists
    found = {
        "trunk": CachePoint(),
        LIVE_EMBEDDING: CachePoint(keep="residual"),
        "output": CachePoint(kind="output"),
        "every block": CachePoint(kind="blocks"),
    }
    for live in LIVE:
        if live < len(last) and before + live:
            name = f"after {before + live} live of {len(blocks)} blocks"
            found[name] = CachePoint(kind="span", path=f"{last[live]}..{last[-1]}", keep="residual")
    return found


def _searched(context: Context, workload: Workload, name: str, point: CachePoint) -> dict[str, dict[str, Any]]:
    """A plan for every budget at one point, judged on the test split."""
    problem = traced(context, context.pipe, workload, point, context.folder / f"{name}.zarr", batch=8)
    steps = problem.trace.num_steps
    budgets = [budget for text in BUDGETS if _can_meet(problem, budget := Budget.parse(text))]
    if not budgets:
        return {}
    tuning = Tuning(trials=3 if context.quick else 20, timeout=120)
    candidates = tune(problem, budgets, tuning, context.folder / f"{name}.log", context.seed)
    refinement = Refinement(minutes=60, iterations=2 if context.quick else 40, batch=2 if context.quick else 8)
    options = SearchOptions(RolloutLimits(0.01 if context.quick else 0.7), refinement, seed=context.seed)
    test = problem.samples("test")
    rows = {}
    for budget in budgets:
        study = StudyFolder.open(context.folder / f"{name} {budget.text}", {"point": str(point), "budget": budget.text})
        plan = searched(context.pipe, candidates[budget], budget, study, options)
        section, result = plan.section, study.read_result()
        rows[budget.text] = {
            "computed": len(section.schedule.computed_steps),
            "steps": steps,
            "flops_ratio": section.cost.flops_ratio if section.cost else math.nan,
            "floats_cached": section.depth * problem.trace.cost.feature_numel,
            "confirmed_db": max((r["psnr_db"] for r in result["rollouts"]), default=math.nan),
            "test_db": psnr_db(context.pipe, section, test),
            "prompts": prompt_groups(test.jobs),
        }
    return rows


def _can_meet(problem: Problem, budget: Budget) -> bool:
    """Live blocks may cost more than the whole budget."""
    try:
        return budget.computed_steps(problem.trace.cost, problem.trace.num_steps, 3) > 1
    except BudgetError:
        return False


def _table(budget: str, rows: dict[str, dict[str, Any]]) -> Table:
    cells, most = {}, next(iter(rows.values()))["floats_cached"]
    for name, row in rows.items():
        mean, low, high = interval(row["test_db"], 0, row.get("prompts"))
        computed, spread = f"{row['computed']} of {row['steps']}", f"{low:.2f} to {high:.2f}"
        cells[name] = (computed, row["flops_ratio"], row["confirmed_db"], mean, spread, row["floats_cached"] / most)
    head = ("point", "computed", "FLOPs ratio", "fitted, select, dB", "refined, test, dB", "95 %", "cache, times")
    return Table.of(f"Budget {budget}.", head, cells)


def claims(numbers: dict[str, Any]) -> tuple[Claim, ...]:
    """Verdicts by what the refined plans of the points reach on the same test samples."""
    return tuple(claim for budget in BUDGETS for claim in _at_budget(budget, _at(numbers["points"], budget)))


def _at_budget(budget: str, rows: dict[str, dict[str, Any]]) -> list[Claim]:
    found = [
        ruled(
            f"At {budget}, rollouts of fitted taps pick a point that none beats after refinement by over "
            f"{MATTERS_DB:g} dB.",
            lambda: _picked(rows),
        )
    ]
    rivals = {
        "forecasting every block beats forecasting the trunk": ["every block"],
        "forecasting what the blocks add to a live embedding beats forecasting the trunk": [LIVE_EMBEDDING],
        "computing the first blocks on every step pays": [name for name in rows if "live of" in name],
    }
    for text, names in rivals.items():
        if known := [name for name in names if name in rows]:
            found.append(ruled(f"At {budget}, {text} (by over {MATTERS_DB:g} dB).", partial(_pays, rows, known)))
    return found


def _apart(rows: dict[str, dict[str, Any]], one: str, other: str, level: float = 0.95) -> Ratio:
    return difference(rows[one]["test_db"], rows[other]["test_db"], rows[one].get("prompts"), level)


def _picked(rows: dict[str, dict[str, Any]]) -> tuple[Verdict, str]:
    confirmed = {name: row["confirmed_db"] for name, row in rows.items()}
    picked = max(confirmed, key=lambda name: confirmed[name])
    others = [name for name in rows if name != picked]
    ahead = {name: _apart(rows, name, picked) for name in others}
    surely = [above(_apart(rows, name, picked, shared_level(len(others))), MATTERS_DB) for name in others]
    none = all(below(found, MATTERS_DB) for found in ahead.values())
    verdict: Verdict = "holds" if none else "fails" if any(surely) else "not decided"
    return verdict, f"picked: {picked}; the others on it, dB: {listed(ahead, told=told_db)}."


def _pays(rows: dict[str, dict[str, Any]], names: list[str]) -> tuple[Verdict, str]:
    """Some rival must be ahead, at the level that their number asks for."""
    ahead = {name: _apart(rows, name, "trunk", shared_level(len(names))) for name in names}
    met = any_of(above(found, MATTERS_DB) for found in ahead.values())
    return decide([met]), f"on the trunk, dB: {listed(ahead, told=told_db)}."
