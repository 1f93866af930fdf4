"""The whole of ``hyca_calib search`` for one budget: tune, confirm, refine, write the plan."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from hyca_calib.budget import Budget
from hyca_calib.search.assemble import build_section, channel_taps, group_labels, plan_taps, provenance, with_taps
from hyca_calib.search.candidate import Candidate, choose_solvers, partition
from hyca_calib.search.confirm import Confirmation, confirm, rollout_psnr
from hyca_calib.search.problem import Problem
from hyca_calib.search.refine import Refinement, refine_taps
from hyca_calib.search.tune import Tuning, tune
from hyca_calib.study import Study
from hyca_calib.trace.store import Trace
from hyca_calib.workload import Workload
from hyca_runtime.plan import Plan, Quality, Section, save_plan

__all__ = ["Progress", "SearchOptions", "search"]

Stage = Literal["tune", "confirm", "refine"]
Progress = Callable[[Stage, float, str], None]
"""Told the stage, the share of it that is done, and a line of news."""


@dataclass(frozen=True)
class SearchOptions:
    """Limits of the three stages, and the grain of the taps.

    Attributes:
        taps: "channel" refines one row for every channel, "group" one for every group.
    """

    tuning: Tuning = field(default_factory=Tuning)
    confirmation: Confirmation = field(default_factory=Confirmation)
    refinement: Refinement = field(default_factory=Refinement)
    taps: Literal["channel", "group"] = "channel"
    seed: int = 0


def search(
    pipe: Any,
    trace: Trace,
    workload: Workload,
    budget: Budget,
    study: Study,
    options: SearchOptions,
    on_progress: Progress = lambda stage, share, news: None,
) -> Plan:
    """Find the best plan within `budget` and write it, with its account, into `study`.

    Args:
        pipe: the pipeline that was traced; None skips confirmation and refinement.
    """
    problem, seed = Problem(trace), options.seed
    begun = time.monotonic()
    tuning = options.tuning
    candidates = tune(
        problem,
        budget,
        tuning,
        study.journal,
        budget.text,
        seed,
        lambda number, cost: on_progress("tune", (number + 1) / tuning.trials, f"cost {cost:.4g}"),
    )
    on_progress("tune", 1.0, f"{len(candidates)} schedules")
    seconds = {"tune": time.monotonic() - begun}
    winner = candidates[0]
    tried: list[dict[str, Any]] = []
    jobs, goal = workload.of("select"), torch.from_numpy(trace.latents_of("select"))
    all_computed = not winner.schedule.predicted_steps
    if pipe is not None and not all_computed and options.confirmation.minutes > 0:
        winner, tried = confirm(
            pipe,
            problem,
            candidates,
            jobs,
            goal,
            options.confirmation,
            study.rollouts,
            seed,
            lambda share, psnr: on_progress("confirm", share, f"{psnr:.2f} dB"),
        )
    on_progress("confirm", 1.0, f"{len(tried)} rollouts")
    seconds["confirm"] = time.monotonic() - begun - seconds["tune"]

    section = build_section(problem, winner, seed)
    account: dict[str, Any] = {}
    if pipe is not None and not all_computed and options.refinement.minutes > 0:
        section, account = _refined(pipe, problem, winner, section, workload, study, options, on_progress)
    seconds["refine"] = time.monotonic() - begun - seconds["tune"] - seconds["confirm"]
    if pipe is not None:
        psnr = rollout_psnr(pipe, section, jobs, goal, problem.inference_steps)
        quality = Quality(split="select", num_samples=len(jobs), psnr_db=psnr)
        section = section.model_copy(update={"quality": quality})
    on_progress("refine", 1.0, f"{section.quality.psnr_db:.2f} dB" if section.quality else "")
    plan = Plan(
        name=f"{trace.attributes['model']['name']}-{budget.text}",
        sections=(section,),
        provenance=provenance(problem, winner) | ({"refinement": account} if "iterations" in account else {}),
    )
    study.write_result(_account(problem, winner, candidates, tried, account, seconds, options))
    save_plan(plan, study.plan)
    return plan


def _refined(
    pipe: Any,
    problem: Problem,
    winner: Candidate,
    section: Section,
    workload: Workload,
    study: Study,
    options: SearchOptions,
    on_progress: Progress,
) -> tuple[Section, dict[str, Any]]:
    """The section with refined taps; unrefined, with the reason, if the pipeline cannot be differentiated."""
    labels = torch.from_numpy(group_labels(section))
    if options.taps == "channel":
        start = channel_taps(problem, winner, section)
    else:
        _, first = np.unique(labels.numpy(), return_index=True)
        start = plan_taps(section)[:, :, first]

    def expand(theta: Tensor) -> Tensor:
        return theta if options.taps == "channel" else theta[:, :, labels.to(theta.device)]

    splits = [(workload.of(s), torch.from_numpy(problem.trace.latents_of(s))) for s in ("fit", "select")]
    try:
        theta, account = refine_taps(
            pipe,
            section,
            problem.inference_steps,
            torch.from_numpy(start).float(),
            expand,
            splits[0],
            splits[1],
            options.refinement,
            study.refinement,
            options.seed,
            lambda share, psnr: on_progress("refine", share, f"{psnr:.2f} dB"),
        )
    except (RuntimeError, TypeError, NotImplementedError) as error:
        reason = str(error).splitlines()[0][:160]
        on_progress("refine", 1.0, f"taps stay unrefined, this pipeline cannot be differentiated: {reason}")
        return section, {"skipped": reason}
    return with_taps(section, expand(theta).double().numpy()), account | {"taps": options.taps}


def _account(
    problem: Problem,
    winner: Candidate,
    candidates: list[Candidate],
    tried: list[dict[str, Any]],
    refinement: dict[str, Any],
    seconds: dict[str, float],
    options: SearchOptions,
) -> dict[str, Any]:
    """What reports are made of."""
    groups = partition(problem, winner.settings, options.seed)
    chosen, costs = choose_solvers(problem, winner.settings, winner.schedule, groups)
    return {
        "settings": asdict(winner.settings),
        "computed": list(winner.schedule.computed_steps),
        "candidates": [
            {"settings": asdict(c.settings), "computed": list(c.schedule.computed_steps), "cost": c.cost}
            for c in candidates[:20]
        ],
        "rollouts": tried,
        "groups": [{"size": len(g), "solver": s.name} for g, s in zip(groups, chosen, strict=False)],
        "solver_costs": costs,
        "refinement": refinement,
        "seconds": {stage: round(value, 1) for stage, value in seconds.items()},
    }
