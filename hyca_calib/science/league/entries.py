"""Our plans: the best one that a search finds for each budget, and published recipes at the same budget."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial

from hyca_calib.bench import SAME_COST
from hyca_calib.budget import Budget
from hyca_calib.peers import Peer
from hyca_calib.replay import Multistep
from hyca_calib.science.chapter import Context
from hyca_calib.search.candidate import Candidate
from hyca_calib.search.confirm import Confirmation
from hyca_calib.search.healing import carried_over
from hyca_calib.search.presets import PRESETS, preset_section, published_schedule
from hyca_calib.search.problem import Problem
from hyca_calib.search.refine import Refinement
from hyca_calib.search.run import Contender, SearchOptions, Stage, search
from hyca_calib.search.tune import Tuning, tune
from hyca_calib.study import Study
from hyca_calib.trace.run import trace
from hyca_calib.trace.store import Trace
from hyca_calib.workload import Workload
from hyca_runtime import Plan, apply_plan, load_plan
from hyca_runtime.plan import Section
from hyca_runtime.point import CachePoint, parse_point

__all__ = ["OURS", "PRESET", "Effort", "Entry", "best_plans", "preset_plans"]

OURS, PRESET = "HyCa best", "published recipe"
RECIPES: tuple[tuple[str, Multistep, str], ...] = (
    ("hyca", "anchored", "trunk"),
    ("hyca", "recursive", "trunk"),
    ("hyca", "anchored", "blocks"),
    ("hyca", "recursive", "blocks"),
    ("foca", "anchored", "trunk"),
    ("taylorseer", "anchored", "trunk"),
    ("hicache", "anchored", "trunk"),
    ("hold", "anchored", "trunk"),
)
"""Preset, use over a long gap, and cache point."""
OVER_EMBEDDING = parse_point("trunk:residual")
CONFIRMS = 0.7
"""Share of a search's time that its rollouts take, about."""
PROBE_SAMPLES = 7
"""Samples of the trace at every block: recipes look at the first one only, no workload is smaller."""


@dataclass(frozen=True)
class Effort:
    """What the search may spend: trials at each point, for all budgets, then rollouts and gradient steps for each.

    No seconds: the same plans on every machine.
    """

    trials: int = 40
    confirm: int = 200
    refine: int = 40


@dataclass(frozen=True)
class Entry:
    """A plan for a budget, as a method."""

    budget: Budget
    peer: Peer
    plan: Plan

    @classmethod
    def of(cls, context: Context, budget: Budget, family: str, name: str, plan: Plan) -> Entry:
        applied = partial(apply_plan, context.pipe, plan, "error")
        return cls(budget, Peer(f"{name} at {budget.text}", family, context.workload.num_steps, applied), plan)

    @property
    def digest(self) -> str:
        """Of what the plan does; where it comes from does not matter."""
        return hashlib.sha256(self.plan.model_dump_json(include={"sections"}).encode()).hexdigest()


def best_plans(
    context: Context, budgets: Sequence[Budget], effort: Effort, tell: Callable[[float, str], None]
) -> list[Entry]:
    """A searched plan for every budget, in studies below the context's folder; complete ones are not searched again."""
    folder, facts = context.folder / "plans", context.problem.trace.attributes
    request = {
        "weights": facts["model"]["weights_digest"],
        "workload": facts["workload"],
        "points": [str(context.problem.trace.point), str(OVER_EMBEDDING)],
        "budgets": [budget.text for budget in budgets],
        "effort": asdict(effort),
        "seed": context.seed,
    }
    studies = [Study.open(folder / budget.text, request | {"budget": budget.text}) for budget in budgets]
    tuned = [] if all(study.complete for study in studies) else _tuned(context, budgets, effort, tell)
    confirmation = Confirmation(minutes=math.inf, rollouts=effort.confirm)
    options = SearchOptions(confirmation, Refinement(minutes=math.inf, iterations=effort.refine), seed=context.seed)
    for i, (budget, study) in enumerate(zip(budgets, studies, strict=True)):
        if not study.complete:

            def progress(stage: Stage, share: float, news: str, i: int = i, text: str = budget.text) -> None:
                done = CONFIRMS * share if stage == "confirm" else CONFIRMS + (1 - CONFIRMS) * share
                tell((i + done) / len(budgets), f"{stage} {text}: {news}")

            contenders = [Contender(problem, found[budget]) for problem, found in tuned]
            search(context.pipe, contenders, context.workload, budget, study, options, progress)
    return [
        Entry.of(context, budget, OURS, OURS, load_plan(study.plan))
        for budget, study in zip(budgets, studies, strict=True)
    ]


def _tuned(
    context: Context, budgets: Sequence[Budget], effort: Effort, tell: Callable[[float, str], None]
) -> list[tuple[Problem, dict[Budget, list[Candidate]]]]:
    """At the trunk and over a live embedding: rollouts decide between them."""
    tell(0.0, "tracing over the embedding")
    over = carried_over(context.problem.healing, _traced(context, context.workload, OVER_EMBEDDING, "over-embedding"))
    found = []
    for problem in (context.problem, over):
        tell(0.0, f"tuning at {problem.trace.point}")
        journal, tuning = context.folder / "plans/journal.log", Tuning(effort.trials, timeout=math.inf)
        found.append((problem, tune(problem, budgets, tuning, journal, context.seed)))
    return found


def preset_plans(context: Context, best: Sequence[Entry]) -> list[Entry]:
    """Every published recipe at the budgets of our best plans.

    Intervals are whole: a recipe that must therefore spend less than our plan gets the next shorter one, too.
    """
    few = replace(context.workload, num_samples=PROBE_SAMPLES)
    problems = {"trunk": context.problem, "blocks": _traced(context, few, parse_point("blocks"), "blocks")}
    found = []
    for preset, multistep, point in RECIPES:
        name = f"preset {preset} {multistep}" + (", every block" if point == "blocks" else "")
        for entry in best:
            section = _recipe(context, problems[point], preset, multistep, entry.budget)
            found.append(Entry.of(context, entry.budget, PRESET, name, Plan(name=preset, sections=(section,))))
            if _ratio(section) > _ratio(entry.plan.section) * SAME_COST:
                dearer = _recipe(context, problems[point], preset, multistep, _next_interval(section, preset))
                plan = Plan(name=preset, sections=(dearer,))
                found.append(Entry.of(context, entry.budget, PRESET, f"{name}, shorter interval", plan))
    return found


def _recipe(context: Context, problem: Problem, preset: str, multistep: Multistep, budget: Budget) -> Section:
    return preset_section(problem, PRESETS[preset], budget, context.seed, multistep)[1]


def _next_interval(section: Section, preset: str) -> Budget:
    """The least number of computed steps with a shorter interval."""
    steps, computed = section.schedule.num_steps, len(section.schedule.computed_steps)
    for count in range(computed + 1, steps):
        if len(published_schedule(steps, count, PRESETS[preset].warmup).computed_steps) > computed:
            return Budget.parse(f"{count} steps")
    return Budget.parse(f"{steps} steps")


def _ratio(section: Section) -> float:
    return section.cost.flops_ratio if section.cost else 1.0


def _traced(context: Context, workload: Workload, point: CachePoint, name: str) -> Problem:
    path, batch = context.folder / f"{name}.zarr", context.problem.trace.attributes["batch"]
    trace(context.pipe, workload, point, path, model_name=context.model, batch=batch, tokens=16)
    return Problem(Trace(path))
