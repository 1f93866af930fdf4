"""What a check expects, measured by real rollouts."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from hyca_calib.pipelines.workload import Job
from hyca_calib.search.check_plan import Verdict, decide, remake
from hyca_calib.search.lineage import refinement_gain
from hyca_calib.search.problem import Problem
from hyca_calib.search.refine import to_db
from hyca_calib.search.rollout_error import log_errors
from hyca_runtime.plan import NetworkPlan, Plan

__all__ = ["Measured", "judge", "measure", "rollout_db"]


@dataclass(frozen=True)
class Measured:
    """Rollouts of a plan and its remedies.

    Attributes:
        plan_db, refit_db, redo_db: PSNR of each sample's final latent to the full run's, dB.
        taps_db, schedule_db: gains of new taps, were they refined as the plan's are, and of a new schedule
            beyond them; mean over samples.
    """

    verdict: Verdict
    taps_db: float
    schedule_db: float
    plan_db: tuple[float, ...]
    refit_db: tuple[float, ...]
    redo_db: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def measure(pipe: Any, plan: Plan, problem: Problem, jobs: Sequence[Job], batch: int, seed: int = 0) -> Measured:
    """Roll out the plan and its remedies on `jobs`, the first of the trace's test split."""
    remade, goal = remake(plan, problem, seed), torch.from_numpy(problem.trace.latents_of("test")[: len(jobs)])
    plan_db, refit_db, redo_db = (
        rollout_db(pipe, section, jobs, goal, problem.inference_steps, batch)
        for section in (remade.section, remade.refit, remade.redo)
    )
    return judge(plan_db, refit_db, redo_db, refinement_gain(plan))


def judge(plan: Sequence[float], refit: Sequence[float], redo: Sequence[float], refined_db: float) -> Measured:
    """The verdict of PSNRs in dB, sample by sample.

    Args:
        refined_db: what refinement gained the plan, and would gain its remedies.
    """
    now, fitted, searched = (statistics.fmean(values) for values in (plan, refit, redo))
    taps_db, schedule_db = fitted + refined_db - now, searched - fitted
    return Measured(decide(taps_db, schedule_db), taps_db, schedule_db, tuple(plan), tuple(refit), tuple(redo))


def rollout_db(
    pipe: Any, section: NetworkPlan, jobs: Sequence[Job], goal: Tensor, num_steps: int, batch: int
) -> list[float]:
    """PSNR in dB of each sample's final latent under `section`, adapted if the steps are not its own; 0 for NaN.

    Args:
        goal: final latents of the full runs ``(job, ...)``.
    """
    return [to_db(error) for error in log_errors(pipe, section, jobs, goal, num_steps, batch, "adapt").tolist()]
