"""Where to forecast: the trunk, the output, every block, or the rest of the network after some live blocks."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np

from hyca_calib.budget import Budget
from hyca_calib.science.chapter import Chapter, Claim, Context, Table, interval
from hyca_calib.science.loop.contest import log_errors, samples_of
from hyca_calib.search.confirm import Confirmation
from hyca_calib.search.healing import carried_over
from hyca_calib.search.problem import Problem
from hyca_calib.search.refine import Refinement, to_db
from hyca_calib.search.run import Contender, SearchOptions, search
from hyca_calib.search.tune import Tuning, tune
from hyca_calib.study import Study
from hyca_calib.trace.run import trace
from hyca_calib.trace.store import Trace
from hyca_calib.workload import Workload
from hyca_runtime import load_plan
from hyca_runtime.attach.points import find_blocks, find_transformer
from hyca_runtime.errors import BudgetError
from hyca_runtime.point import CachePoint

__all__ = ["points"]

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
        kept = context.folder / f"{name}.json"
        if not kept.exists():
            kept.write_text(json.dumps(_searched(context, workload, name, point)))
        found[name] = json.loads(kept.read_text())
    return Chapter(
        name="points",
        title="Cache points",
        text=(OPENING.format(samples=fewer),),
        tables=tuple(_table(budget, _at(found, budget)) for budget in BUDGETS),
        claims=tuple(claim for budget in BUDGETS for claim in _claims(budget, _at(found, budget))),
        numbers={"points": found},
    )


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
    path = context.folder / f"{name}.zarr"
    trace(context.pipe, workload, point, path, model_name=context.model, batch=8, tokens=1)
    problem = carried_over(context.problem.healing, Problem(Trace(path)))
    steps = problem.trace.num_steps
    budgets = [budget for text in BUDGETS if _can_meet(problem, budget := Budget.parse(text))]
    if not budgets:
        return {}
    tuning = Tuning(trials=3 if context.quick else 20, timeout=120)
    candidates = tune(problem, budgets, tuning, context.folder / f"{name}.log", context.seed)
    refinement = Refinement(minutes=60, iterations=2 if context.quick else 40, batch=2 if context.quick else 8)
    options = SearchOptions(Confirmation(0.01 if context.quick else 0.7), refinement, seed=context.seed)
    test = samples_of(problem, workload, "test")
    rows = {}
    for budget in budgets:
        study = Study.open(context.folder / f"{name} {budget.text}", {"point": str(point), "budget": budget.text})
        if not study.complete:
            search(context.pipe, [Contender(problem, candidates[budget])], workload, budget, study, options)
        section, result = load_plan(study.plan).section, study.read_result()
        errors = log_errors(context.pipe, section, test, problem.inference_steps)
        rows[budget.text] = {
            "computed": len(section.schedule.computed_steps),
            "steps": steps,
            "flops_ratio": section.cost.flops_ratio if section.cost else math.nan,
            "floats_cached": section.depth * problem.trace.cost.feature_numel,
            "confirmed_db": max((r["psnr_db"] for r in result["rollouts"]), default=math.nan),
            "test_db": [to_db(error) for error in errors],
        }
    return rows


def _can_meet(problem: Problem, budget: Budget) -> bool:
    """Live blocks may cost more than the whole budget."""
    try:
        return budget.computed_steps(problem.trace.cost, problem.trace.num_steps, 3) > 1
    except BudgetError:
        return False


def _table(budget: str, rows: dict[str, dict[str, Any]]) -> Table:
    lines = []
    for name, row in rows.items():
        mean, low, high = interval(row["test_db"])
        computed = f"{row['computed']} of {row['steps']}"
        cached = row["floats_cached"] / next(iter(rows.values()))["floats_cached"]
        lines.append(
            (name, computed, row["flops_ratio"], row["confirmed_db"], mean, f"{low:.2f} to {high:.2f}", cached)
        )
    head = ("point", "computed", "FLOPs ratio", "fitted, select, dB", "refined, test, dB", "95 %", "cache, times")
    return Table(f"Budget {budget}.", head, tuple(lines))


def _claims(budget: str, rows: dict[str, dict[str, Any]]) -> tuple[Claim, ...]:
    means = {name: float(np.mean(row["test_db"])) for name, row in rows.items()}
    confirmed = {name: row["confirmed_db"] for name, row in rows.items()}
    best, picked = max(means, key=lambda n: means[n]), max(confirmed, key=lambda n: confirmed[n])
    claims = [
        Claim(
            f"At {budget}, rollouts of fitted taps pick the point that is best after refinement.",
            "holds" if means[picked] > means[best] - MATTERS_DB else "fails",
            f"picked: {picked} ({means[picked]:.2f} dB after refinement); best: {best} ({means[best]:.2f} dB).",
        )
    ]
    rivals = {
        "forecasting every block beats forecasting the trunk": ["every block"],
        "forecasting what the blocks add to a live embedding beats forecasting the trunk": [LIVE_EMBEDDING],
        "computing the first blocks on every step pays": [name for name in rows if "live of" in name],
    }
    for text, names in rivals.items():
        if known := [name for name in names if name in means]:
            rival = max(known, key=lambda n: means[n])
            pays = means[rival] > means["trunk"] + MATTERS_DB
            evidence = f"{rival} {means[rival]:.2f} dB, trunk {means['trunk']:.2f} dB."
            claims.append(Claim(f"At {budget}, {text}.", "holds" if pays else "fails", evidence))
    return tuple(claims)
