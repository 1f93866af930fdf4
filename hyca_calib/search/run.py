"""The whole of ``hyca_calib search`` for one budget: tune, confirm, refine, write the plan."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import torch

from hyca_calib.costs.budget import Budget
from hyca_calib.pipelines.workload import Workload
from hyca_calib.search.assemble import build_section, provenance, with_taps
from hyca_calib.search.candidate import Candidate, choose_solvers, partition, replayed
from hyca_calib.search.damping_sweep import hedged
from hyca_calib.search.preconditioner import coordinates
from hyca_calib.search.presets import PRESETS, preset_section
from hyca_calib.search.problem import Problem
from hyca_calib.search.refine import Refinement, refine_taps
from hyca_calib.search.replay import Multistep
from hyca_calib.search.rollout_search import Confirmation, confirm, rollout_psnr
from hyca_calib.search.shared_rollouts import Scoreboard
from hyca_calib.search.solver_table import solver_label
from hyca_calib.search.storage import Storage
from hyca_calib.search.study import Study
from hyca_calib.search.tap_rollout import NotDifferentiableError
from hyca_runtime.plan import NetworkPlan, Plan, Quality, load_plan, save_plan
from hyca_runtime.solvers import ClosedFormSolver, Solver

__all__ = ["Contender", "Progress", "SearchOptions", "Stage", "search", "search_preset"]

Stage = Literal["confirm", "refine"]
Progress = Callable[[Stage, float, str], None]
"""Told the stage, the share of it that is done, and a line of news."""


@dataclass(frozen=True)
class Contender:
    """A trace, and what `tune` found on it, best first."""

    problem: Problem
    candidates: Sequence[Candidate]


@dataclass(frozen=True)
class SearchOptions:
    """Limits of the stages on the model itself."""

    confirmation: Confirmation = field(default_factory=Confirmation)
    refinement: Refinement = field(default_factory=Refinement)
    seed: int = 0
    storage: Storage | None = None
    """Where workers share their rollouts; None for the study's own folder."""


def search(
    pipe: Any,
    contenders: Sequence[Contender],
    workload: Workload,
    budget: Budget,
    study: Study,
    options: SearchOptions,
    on_progress: Progress = lambda stage, share, news: None,
) -> Plan:
    """Find the best plan among the candidates and their neighbours, and write it with its account into `study`.

    Args:
        pipe: the pipeline that was traced; None skips confirmation and refinement.
        contenders: traces of the same workload at different cache points; rollouts decide between them.
    """
    begun = time.monotonic()
    chosen, winner, tried = _confirmed(pipe, contenders, workload, budget, study, options, on_progress)
    on_progress("confirm", 1.0, f"{sum(map(len, tried.values()))} rollouts")
    confirmed = time.monotonic()
    with study.last_word():
        if study.complete:  # another worker was faster
            return load_plan(study.plan)
        section, refinement = _refined(pipe, chosen.problem, winner, workload, study, options, on_progress)
        on_progress("refine", 1.0, f"{section.quality.psnr_db:.2f} dB" if section.quality else "")
        account = _describe_choice(chosen.problem, winner, options.seed) | {
            "candidates": [_summary(c) for c in chosen.candidates[:20]],
            "rollouts": tried[str(chosen.problem.trace.point)],
            "points": {point: max((r["psnr_db"] for r in rolled), default=None) for point, rolled in tried.items()},
            "refinement": refinement,
            "seconds": {"confirm": round(confirmed - begun, 1), "refine": round(time.monotonic() - confirmed, 1)},
        }
        return _write_plan(chosen.problem, budget.text, winner, section, refinement, study, account)


def _confirmed(
    pipe: Any,
    contenders: Sequence[Contender],
    workload: Workload,
    budget: Budget,
    study: Study,
    options: SearchOptions,
    on_progress: Progress,
) -> tuple[Contender, Candidate, dict[str, list[dict[str, Any]]]]:
    """The best contender, its winner, and what was rolled out at each cache point.

    Of several contenders each gets a share of half of the limits, the one that is ahead then the other half.
    """
    limits, num = options.confirmation, len(contenders)
    tried: dict[str, list[dict[str, Any]]] = {}

    def run(contender: Contender, limits: Confirmation, begin: float, end: float) -> tuple[float, Candidate]:
        problem, winner = contender.problem, contender.candidates[0]
        tried[str(problem.trace.point)] = []
        if pipe is None or not winner.schedule.predicted_steps or not limits.minutes:
            return winner.cost, winner
        board = _board(pipe, problem, workload, budget, study, options)

        def tell(done: float, psnr: float) -> None:
            on_progress("confirm", begin + (end - begin) * done, f"{psnr:.2f} dB")

        hedges = hedged(problem, winner.settings, budget, options.seed)
        winner, psnr = confirm(contender.candidates, limits, board, options.seed, tell, hedges)
        tried[str(problem.trace.point)] = board.history()
        return -psnr, winner

    chosen, begin = contenders[0], 0.0
    if num > 1:
        heat = replace(limits, minutes=limits.minutes / 2 / num, rollouts=_split(limits.rollouts, 2 * num))
        heats = [run(c, heat, i / 2 / num, (i + 1) / 2 / num) for i, c in enumerate(contenders)]
        chosen = contenders[min(range(num), key=lambda i: heats[i][0])]
        limits, begin = replace(limits, minutes=limits.minutes / 2), 0.5
    _, winner = run(chosen, limits, begin, 1.0)
    groups = partition(chosen.problem, winner.settings, options.seed)
    return chosen, replayed(chosen.problem, winner.settings, winner.schedule, groups), tried


def _split(rollouts: int | None, parts: int) -> int | None:
    return None if rollouts is None else max(1, rollouts // parts)


def _board(
    pipe: Any, problem: Problem, workload: Workload, budget: Budget, study: Study, options: SearchOptions
) -> Scoreboard:
    """Rollouts on the select split."""
    jobs, goal = workload.of("select"), torch.from_numpy(problem.trace.latents_of("select"))

    def rollout(candidate: Candidate) -> float:
        section = build_section(problem, candidate, options.seed)
        return rollout_psnr(pipe, section, jobs, goal, problem.inference_steps)

    name = f"rollouts {problem.identity} {budget.text} seed {options.seed}"
    return Scoreboard(options.storage or study.journal, name, problem.trace.num_steps, rollout)


def search_preset(
    pipe: Any, problem: Problem, workload: Workload, budget: Budget, study: Study, preset: str, multistep: Multistep
) -> Plan:
    """The plan of a published recipe, written with its account into `study`."""
    candidate, section = preset_section(problem, PRESETS[preset], budget, 0, multistep)
    section = _judged(pipe, problem, section, workload)
    account = {
        "preset": preset,
        "source": PRESETS[preset].source,
        "multistep": multistep,
        "settings": asdict(candidate.settings),
        "computed": list(candidate.schedule.computed_steps),
        "groups": [{"size": len(g), "solver": _name(closed)} for g, closed in section.fallbacks],
        "candidates": [_summary(candidate)],
        "solver_costs": {},
        "rollouts": [],
        "points": {},
        "refinement": {},
        "seconds": {},
    }
    return _write_plan(problem, f"{preset}-{budget.text}", candidate, section, {}, study, account)


def _judged(pipe: Any, problem: Problem, section: NetworkPlan, workload: Workload) -> NetworkPlan:
    """The section with its agreement on the select split; without a pipeline as it is."""
    if pipe is None:
        return section
    jobs, goal = workload.of("select"), torch.from_numpy(problem.trace.latents_of("select"))
    psnr = rollout_psnr(pipe, section, jobs, goal, problem.inference_steps)
    return section.model_copy(update={"quality": Quality(split="select", num_samples=len(jobs), psnr_db=psnr)})


def _write_plan(
    problem: Problem,
    suffix: str,
    winner: Candidate,
    section: NetworkPlan,
    refinement: dict[str, Any],
    study: Study,
    account: dict[str, Any],
) -> Plan:
    """Write the account, then the plan: a folder with a plan is complete."""
    plan = Plan(
        name=f"{problem.trace.attributes.model.name}-{suffix}",
        sections=(section,),
        provenance=provenance(problem, winner) | _lasting(refinement),
    )
    study.write_result(account)
    save_plan(plan, study.plan)
    return plan


def _lasting(refinement: dict[str, Any]) -> dict[str, Any]:
    """What a plan tells of its refinement; not how long it took, so that equal searches give equal plans."""
    if "iterations" not in refinement:
        return {}
    return {"refinement": {key: value for key, value in refinement.items() if key != "minutes"}}


def _refined(
    pipe: Any,
    problem: Problem,
    winner: Candidate,
    workload: Workload,
    study: Study,
    options: SearchOptions,
    on_progress: Progress,
) -> tuple[NetworkPlan, dict[str, Any]]:
    """The winner as a section with refined taps and its agreement on the select split, and an account of that."""
    section, refinement = build_section(problem, winner, options.seed), dict[str, Any]()
    if pipe is not None and winner.schedule.predicted_steps and options.refinement.minutes > 0:
        section, refinement = _with_refined_taps(pipe, problem, winner, section, workload, study, options, on_progress)
    return _judged(pipe, problem, section, workload), refinement


def _with_refined_taps(
    pipe: Any,
    problem: Problem,
    winner: Candidate,
    section: NetworkPlan,
    workload: Workload,
    study: Study,
    options: SearchOptions,
    on_progress: Progress,
) -> tuple[NetworkPlan, dict[str, Any]]:
    """The section with refined taps; unrefined, with the reason, if the pipeline cannot be differentiated."""
    start, expand = coordinates(problem, section, winner.settings.taps)
    splits = [(workload.of(s), torch.from_numpy(problem.trace.latents_of(s))) for s in ("fit", "select")]
    try:
        theta, account = refine_taps(
            pipe,
            section,
            problem.inference_steps,
            start,
            expand,
            splits[0],
            splits[1],
            options.refinement,
            study.refinement,
            options.seed,
            lambda share, psnr: on_progress("refine", share, f"{psnr:.2f} dB"),
        )
    except NotDifferentiableError as error:
        on_progress("refine", 1.0, f"taps stay unrefined, this pipeline cannot be differentiated: {error}")
        return section, {"skipped": str(error)}
    return with_taps(section, expand(theta).double().numpy()), account


def _describe_choice(problem: Problem, winner: Candidate, seed: int) -> dict[str, Any]:
    """Which solver each group took, and what the others would have cost, for reports."""
    groups = partition(problem, winner.settings, seed)
    chosen, costs = choose_solvers(problem, winner.settings, winner.schedule, groups)
    return {
        "settings": asdict(winner.settings),
        "computed": list(winner.schedule.computed_steps),
        "groups": [{"size": len(g), "solver": s.name} for g, s in zip(groups, chosen, strict=False)],
        "solver_costs": costs,
    }


def _summary(candidate: Candidate) -> dict[str, Any]:
    computed = list(candidate.schedule.computed_steps)
    return {"settings": asdict(candidate.settings), "computed": computed, "cost": candidate.cost}


def _name(solver: Solver) -> str:
    return solver_label(solver) if isinstance(solver, ClosedFormSolver) else solver.name
