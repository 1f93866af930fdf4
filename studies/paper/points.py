"""Where to forecast: the trunk, the output, every block, or the rest of the network after some live blocks."""

import math
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

from hyca_calib.costs.budget import Budget
from hyca_calib.pipelines.workload import Workload
from hyca_calib.quality.metrics import interval, prompt_groups
from hyca_calib.search.options import Refinement, RolloutLimits, SearchOptions, Tuning
from hyca_calib.search.study import StudyFolder
from hyca_calib.search.tune import tune
from hyca_runtime.attach.points import find_blocks, find_transformer
from hyca_runtime.errors import BudgetError
from hyca_runtime.point import CachePoint
from studies.paper.chapter import Context, Numbers, Outline, Part, Rulings, Table, Verdict
from studies.paper.intervals import Ratio, all_below, difference, shared_level, some_above
from studies.paper.rollouts import psnr_db, searched, traced
from studies.paper.words import claims, paragraphs, table

BUDGETS = ("3x", "5x")
LIVE = (0, 1, 2, 4)
LIVE_EMBEDDING = "all blocks, over a live embedding"
SAMPLES = 56
MATTERS_DB = 0.2

Rows = dict[str, dict[str, Any]]
"""What each point reaches at one budget; those that cannot meet it are left out."""


def measure(context: Context) -> Part:
    """Traces and searches are kept in the folder: an interrupted run goes on where it stopped."""
    fewer = 14 if context.quick else min(SAMPLES, context.workload.num_samples)
    workload = replace(context.workload, num_samples=fewer)
    found = {
        name: context.kept(name, partial(_searched, context, workload, name, point))
        for name, point in context.in_turn(_kinds(context))
    }
    numbers = {"points": found}
    return Part(numbers, tables(numbers), paragraphs("points", "opening", samples=fewer))


def _kinds(context: Context) -> dict[str, CachePoint]:
    """The points by name."""
    blocks = find_blocks(find_transformer(context.pipe))
    last = [block.path for block in blocks if block.parent is blocks[-1].parent]
    before = len(blocks) - len(last)  # in other lists
    spans = {
        f"after {before + live} live of {len(blocks)} blocks": f"{last[live]}..{last[-1]}"
        for live in LIVE
        if live < len(last) and before + live
    }
    return {
        "trunk": CachePoint(),
        LIVE_EMBEDDING: CachePoint(keep="residual"),
        "output": CachePoint(kind="output"),
        "every block": CachePoint(kind="blocks"),
        **{name: CachePoint(kind="span", path=path, keep="residual") for name, path in spans.items()},
    }


def _searched(context: Context, workload: Workload, name: str, point: CachePoint) -> dict[str, dict[str, Any]]:
    """A plan for every budget at one point, judged on the test split."""
    problem = traced(context, context.pipe, workload, point, context.folder / f"{name}.zarr", batch=8)
    cost, steps, budgets = problem.trace.cost, problem.trace.num_steps, []
    for budget in map(Budget.parse, BUDGETS):
        with suppress(BudgetError):  # live blocks may cost more than the whole budget
            if budget.computed_steps(cost, steps, 3) > 1:
                budgets.append(budget)
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
        section = searched(context.pipe, candidates[budget], budget, study, options).section
        confirmed = [rollout["psnr_db"] for rollout in study.read_result()["rollouts"]]
        rows[budget.text] = {
            "computed": len(section.schedule.computed_steps),
            "steps": steps,
            "flops_ratio": section.flops_ratio or math.nan,
            "floats_cached": section.depth() * cost.feature_numel,
            "confirmed_db": max(confirmed, default=math.nan),
            "test_db": psnr_db(context.pipe, section, test),
            "prompts": prompt_groups(test.jobs),
        }
    return rows


def _at_budgets(numbers: Numbers) -> dict[str, Rows]:
    points = numbers["points"].items()
    return {budget: {name: rows[budget] for name, rows in points if budget in rows} for budget in BUDGETS}


def tables(numbers: Numbers) -> tuple[Table, ...]:
    """All points at each budget."""
    return tuple(_table(budget, rows) for budget, rows in _at_budgets(numbers).items())


def _table(budget: str, rows: Rows) -> Table:
    cells, most = {}, next(iter(rows.values()))["floats_cached"]
    for name, row in rows.items():
        mean, low, high = interval(row["test_db"], 0, row.get("prompts"))
        computed, spread = f"{row['computed']} of {row['steps']}", f"{low:.2f} to {high:.2f}"
        cells[name] = (computed, row["flops_ratio"], row["confirmed_db"], mean, spread, row["floats_cached"] / most)
    return table("points", "budget", cells, budget=budget)


def rulings(numbers: Numbers) -> Rulings:
    """By what the refined plans of the points reach on the same test samples."""
    found: Rulings = {}
    for budget, rows in _at_budgets(numbers).items():
        live = [name for name in rows if "live of" in name]
        rivals = {"every": ["every block"], "embedding": [LIVE_EMBEDDING], "live": live}
        found |= _picked(budget, rows)
        for claim, names in rivals.items():
            if known := [name for name in names if name in rows]:
                ahead = _ahead(rows, known, "trunk", shared_level(len(known)))  # some point must be
                verdict = some_above(ahead.values(), MATTERS_DB)
                found |= claims("points", {claim: verdict}, budget=budget, ahead=ahead, matters=MATTERS_DB)
    return found


def _ahead(rows: Rows, names: list[str], other: str, level: float = 0.95) -> dict[str, Ratio]:
    """dB of some points above another."""
    base = rows[other]
    return {name: difference(rows[name]["test_db"], base["test_db"], base.get("prompts"), level) for name in names}


def _picked(budget: str, rows: Rows) -> Rulings:
    """None may surely be ahead of what rollouts pick."""
    point = max(rows, key=lambda name: rows[name]["confirmed_db"])
    others = [name for name in rows if name != point]
    ahead, surely = (_ahead(rows, others, point, level) for level in (0.95, shared_level(len(others))))
    none = all_below(ahead.values(), MATTERS_DB) == "holds"
    beaten = some_above(surely.values(), MATTERS_DB) == "holds"
    verdict: Verdict = "holds" if none else "fails" if beaten else "not decided"
    return claims("points", {"picked": verdict}, budget=budget, point=point, ahead=ahead, matters=MATTERS_DB)


POINTS = Outline("Cache points", ("demo", "demo-class"), measure, rulings)
