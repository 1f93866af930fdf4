"""What becomes of a plan in a situation: what the check says, and what rollouts measure."""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hyca_calib.costs.budget import Budget
from hyca_calib.pipelines.defaults import batch_of
from hyca_calib.quality.metrics import prompt_groups
from hyca_calib.search.assemble import build_section, with_groups
from hyca_calib.search.candidate import Candidate
from hyca_calib.search.check_plan import check_plan, remake
from hyca_calib.search.check_rollouts import judge, rollout_db
from hyca_calib.search.lineage import refinement_gain
from hyca_calib.search.options import Refinement, RolloutLimits, SearchOptions, Tuning
from hyca_calib.search.study import StudyFolder
from hyca_calib.search.tune import tune
from hyca_runtime import Plan
from hyca_runtime.network_plan import NetworkPlan
from studies.paper.chapter import Context
from studies.paper.rollouts import BUDGET, searched, traced
from studies.paper.transfer.situations import Situation

TRIALS, ITERATIONS, BATCH, ROLLED_OUT = 12, 20, 8, 16
NO_LIMIT = 1e4
"""Minutes or seconds; counts end the work, so that every run ends alike."""
FINALISTS = RolloutLimits(minutes=1e-9, finalists=3)
"""Rollouts decide between the candidates given, and move no step of theirs."""


def home_plan(context: Context) -> Plan:
    """The plan that is taken elsewhere: searched and refined on the context's trace."""
    budget = Budget.parse(BUDGET)
    folder = context.folder / "plans"
    folder.mkdir(parents=True, exist_ok=True)
    tuning = Tuning(trials=2 if context.quick else TRIALS, timeout=NO_LIMIT)
    candidates = tune(context.problem, [budget], tuning, folder / "journal.log", context.seed)[budget]
    return _refined(context, context.pipe, candidates, "home")


def traces_of(context: Context, situation: Situation) -> Path:
    """Where the trace of a situation is kept."""
    return context.folder / "traces" / f"{situation.slug}.zarr"


def outcome(context: Context, plan: Plan, situation: Situation) -> dict[str, Any]:
    """Costs, verdicts and PSNRs of one situation; a result on disk is read instead.

    PSNRs in dB of each test sample's final latent to the full run's are those of the plan (adapted to other steps), of
    its closed forms alone, of its schedule with taps fitted here (``refit``), of a new schedule with fitted taps
    (``redo``), of the better of these two on the select split, refined (``redone``), and at another resolution of the
    plan's schedule with taps refined there (``refined here``).
    """

    def work() -> dict[str, Any]:
        begun, pipe, batch = time.monotonic(), situation.pipe(), batch_of(context.model, None)
        point, path = context.problem.trace.point, traces_of(context, situation)
        problem = traced(context, pipe, situation.workload, point, path, batch)
        remade = remake(plan, problem, context.seed)
        sections = {
            "plan": remade.section,
            "closed": closed_forms(remade.section),
            "refit": build_section(remade.refit),
            "redo": build_section(remade.redo),
        }
        if situation.kind != "nothing":
            candidates = [remade.redo, remade.refit]
            sections["redone"] = _refined(context, pipe, candidates, f"{situation.slug}-redone").section
        if situation.kind == "resolution":
            sections["refined here"] = _refined(context, pipe, [remade.refit], f"{situation.slug}-refined-here").section
        samples = problem.samples("test")[: 2 if context.quick else ROLLED_OUT]
        psnr = {name: rollout_db(pipe, section, samples, batch) for name, section in sections.items()}
        measured = judge(psnr["plan"], psnr["refit"], psnr["redo"], refinement_gain(plan))
        return {
            "name": situation.name,
            "kind": situation.kind,
            "check": check_plan(plan, problem, context.problem, context.seed).model_dump(),
            "measured": measured.model_dump(include={"verdict", "taps_db", "schedule_db"}),
            "psnr_db": psnr,
            "prompts": prompt_groups(samples.jobs),
            "relative_flops": problem.trace.cost.full_flops / context.problem.trace.cost.full_flops,
            "seconds": time.monotonic() - begun,
        }

    found: dict[str, Any] = context.kept(f"outcomes/{situation.slug}", work)
    return found


def closed_forms(section: NetworkPlan) -> NetworkPlan:
    """The section with every group's closed form in the place of its taps."""
    groups = section.forecast.groups_of()
    return with_groups(section, [g.model_copy(update={"solver": g.closed_form, "fallback": None}) for g in groups])


def _refined(context: Context, pipe: Any, candidates: Sequence[Candidate], name: str) -> Plan:
    """The best candidate on the select split, refined for as many iterations as every plan of the chapter."""
    iterations, size = (1, 2) if context.quick else (ITERATIONS, BATCH)
    refinement = Refinement(NO_LIMIT, iterations=iterations, batch=size, evaluations=4)
    request = {"name": name, "seed": context.seed, "quick": context.quick}
    study = StudyFolder.open(context.folder / "plans" / name, request)
    options = SearchOptions(FINALISTS, refinement, context.seed)
    return searched(pipe, candidates, Budget.parse(BUDGET), study, options)
