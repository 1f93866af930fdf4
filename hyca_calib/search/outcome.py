"""What a search leaves in its folder: the plan, and an account of how it was found."""

from typing import Any

from hyca_calib.costs.budget import Budget
from hyca_calib.search.problem import Problem
from hyca_calib.search.rollout_error import rollout_psnr
from hyca_calib.search.study import StudyFolder
from hyca_calib.search.timing import timing_of
from hyca_runtime.attach.points import find_transformer
from hyca_runtime.network_plan import NetworkPlan
from hyca_runtime.plan import Plan, save_plan
from hyca_runtime.plan_facts import Quality
from hyca_runtime.precision import precision_of

NOT_SEARCHED: dict[str, Any] = {
    "solver_costs": {},
    "candidates": [],
    "rollouts": [],
    "points": {},
    "refinement": {},
    "seconds": {},
}
"""What reports read of a search, where a published recipe has none."""
OF_THE_MACHINE = ("minutes", "recomputed", "stopped")
"""What an account says of a refinement that its speed and free memory decided."""


def judged(pipe: Any, problem: Problem, section: NetworkPlan) -> NetworkPlan:
    """The section with its agreement on the select split; without a pipeline as it is."""
    if pipe is None:
        return section
    samples = problem.samples("select")
    return agreeing(section, rollout_psnr(pipe, section, samples), len(samples.jobs))


def agreeing(section: NetworkPlan, psnr_db: float, num_samples: int) -> NetworkPlan:
    """The section with an agreement that was measured on the select split."""
    quality = Quality(split="select", num_samples=num_samples, psnr_db=psnr_db)
    return section.model_copy(update={"quality": quality})


def write_outcome(
    pipe: Any,
    study: StudyFolder,
    problem: Problem,
    section: NetworkPlan,
    budget: Budget,
    preset: str,
    told: dict[str, Any],
    account: dict[str, Any],
) -> Plan:
    """Write the account, then the plan: a folder with a plan is complete.

    A plan tells of its refinement, but not of the machine's part in it, so that equal searches give equal plans.

    Args:
        budget: that was asked for.
        preset: the recipe's name, "" of a search.
        told: what the plan says of where it comes from.
    """
    shares = problem.variants.step_shares if problem.variants and budget.timed else {}
    made = {**told, "budget": budget.told | _announced(section, problem, budget), **study.told}
    section = section.model_copy(update={"timing": timing_of(section, problem.trace, shares)})
    if pipe is not None:
        made["precision"] = precision_of(find_transformer(pipe, section.component))
    refinement = {key: value for key, value in account["refinement"].items() if key not in OF_THE_MACHINE}
    if "select_psnr_after_db" in refinement:
        made["refinement"] = refinement
    name = "-".join(filter(None, (problem.trace.attributes.model.name, preset, budget.text)))
    plan = Plan(name=name, sections=(section, *problem.other_chunks), provenance=made)
    study.write_result({**account, "budget": budget.told})
    save_plan(plan, study.plan)
    return plan


def _announced(section: NetworkPlan, problem: Problem, budget: Budget) -> dict[str, Any]:
    """What is told of the plan's time, where the budget is of time, and all that it computes with is timed."""
    costs, known = section.action_flops, problem.variants
    if costs is None or (
        section.variants and (known is None or not section.variants.keys() <= known.step_shares.keys())
    ):
        return {}
    if known is not None:
        costs = tuple(known.in_time(*of) for of in zip(costs, section.schedule.palette, strict=True))
    ratio = section.schedule.cost_ratio(costs)
    return budget.announced(1 / ratio) if ratio else {}
