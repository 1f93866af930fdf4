"""What a check expects, measured by real rollouts."""

import statistics
from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel

from hyca_calib.search.check_plan import Verdict, decide, remake
from hyca_calib.search.closed_loop import InTheLoop
from hyca_calib.search.lineage import refinement_gain
from hyca_calib.search.problem import Problem, Samples
from hyca_calib.search.rollout_error import log_errors, to_db
from hyca_runtime.network_plan import NetworkPlan
from hyca_runtime.plan import Plan


class Measured(BaseModel, frozen=True):
    """Rollouts of a plan and its remedies.

    Attributes:
        taps_db, schedule_db: gains of new taps, were they refined as the plan's are, and of a new schedule
            beyond them; mean over samples.
        plan_db, refit_db, redo_db: PSNR of each sample's final latent to the full run's, dB.
    """

    verdict: Verdict
    taps_db: float
    schedule_db: float
    plan_db: tuple[float, ...]
    refit_db: tuple[float, ...]
    redo_db: tuple[float, ...]


def measure(pipe: Any, plan: Plan, problem: Problem, samples: Samples, batch: int, seed: int = 0) -> Measured:
    """Roll out the plan and its remedies on `samples` of the traced test split."""
    remade = remake(plan, problem, seed)
    in_loop = InTheLoop(pipe, problem, None)
    sections = (remade.section, in_loop.section(remade.refit), in_loop.section(remade.redo))
    plan_db, refit_db, redo_db = (rollout_db(pipe, section, samples, batch) for section in sections)
    return judge(plan_db, refit_db, redo_db, refinement_gain(plan))


def judge(plan: Sequence[float], refit: Sequence[float], redo: Sequence[float], refined_db: float) -> Measured:
    """The verdict of PSNRs in dB, sample by sample.

    Args:
        refined_db: what refinement gained the plan, and would gain its remedies.
    """
    now, fitted, searched = (statistics.fmean(values) for values in (plan, refit, redo))
    taps_db, schedule_db = fitted + refined_db - now, searched - fitted
    return Measured(
        verdict=decide(taps_db, schedule_db),
        taps_db=taps_db,
        schedule_db=schedule_db,
        plan_db=tuple(plan),
        refit_db=tuple(refit),
        redo_db=tuple(redo),
    )


def rollout_db(pipe: Any, section: NetworkPlan, samples: Samples, batch: int) -> list[float]:
    """PSNR in dB of each sample's final latent under `section`, adapted if the steps are not its own; 0 for NaN."""
    errors = log_errors(pipe, section, samples, batch, "adapt")
    return [to_db(*pair) for pair in zip(errors.tolist(), samples.log_peak.tolist(), strict=True)]
