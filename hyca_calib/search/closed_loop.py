"""Rows of a plan fitted in a run of it, before any gradient; see `ClosingRollout`."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from hyca_calib.pipelines.rollout import sample_latents
from hyca_calib.pipelines.workload import Job, batches
from hyca_calib.records.atomic import replacing
from hyca_calib.search.assemble import build_section
from hyca_calib.search.candidate import Candidate
from hyca_calib.search.closing_rollout import ClosingRollout, Seen, Tokens, full_runs, guidance_of
from hyca_calib.search.options import Refinement
from hyca_calib.search.problem import Problem
from hyca_calib.search.rollout_error import raced_psnr
from hyca_calib.search.rows import plan_taps, with_taps
from hyca_runtime.network_plan import NetworkPlan
from hyca_runtime.schedule import EVERY

SAMPLES, LEAST = 16, 4
"""Of the fit split that run together, fewer where memory or time is short; rows of fewer than the least are noise."""
SHARE = 1 / 4
"""Of the minutes of a refinement, that full runs for this may take beside them."""
FITTED, KEPT = "fitted_in_the_loop_psnr", "closed_loop.safetensors"


def can_close(problem: Problem, section: NetworkPlan) -> bool:
    """Whether the rows of a section can be fitted so: one point, one schedule, and a guidance that is known."""
    forecasts, schedule = section.points.values(), section.schedule
    alone = len(forecasts) == 1 and section.policy is None and section.chunks is None
    alike = schedule.apart == (EVERY,) and not any(forecast.against for forecast in forecasts)
    return alone and alike and bool(schedule.predicted_steps and guidance_of(problem))


def closed_if_nearer(
    pipe: Any, winner: Candidate, settings: Refinement, kept: Path
) -> tuple[NetworkPlan, dict[str, Any]]:
    """A candidate's section, with rows fitted in runs of it if that brings the select split nearer, and an account.

    Args:
        settings: of the refinement that begins there.
        kept: file of what was decided; a second call reads it.
    """
    problem, section = winner.problem, build_section(winner)
    if kept.exists():
        told = load_file(kept)
        return with_taps(section, told.pop("taps").numpy()), {key: round(of.item(), 3) for key, of in told.items()}
    count, run_seconds = SAMPLES, problem.trace.cost.full_seconds * problem.trace.num_steps
    if settings.iterations is None:
        count = min(SAMPLES, int(SHARE * 60 * settings.minutes / run_seconds))
    if winner.settings.taps != "channel" or count < LEAST:
        return section, {}
    fitted = closed_loop(pipe, problem, section, count)
    if fitted is None:
        return section, {}
    select = problem.samples("select")
    before, after = (statistics.fmean(raced_psnr(pipe, of, select, ())) for of in (section, fitted))
    chosen = fitted if after > before else section
    account = {f"{FITTED}_before_db": before, f"{FITTED}_after_db": after}
    told = {key: torch.tensor(of, dtype=torch.float64) for key, of in account.items()}
    with replacing(kept) as partial:
        save_file({**told, "taps": torch.from_numpy(plan_taps(chosen))}, partial)
    return chosen, {key: round(of, 3) for key, of in account.items()}


def closed_loop(pipe: Any, problem: Problem, section: NetworkPlan, samples: int = SAMPLES) -> NetworkPlan | None:
    """`section` with rows that are fitted in a run of it; None where that cannot be, see `can_close`.

    Cost: a full run of each sample, and one of the plan.

    Args:
        samples: of the fit split, the first, as far as one call of the pipeline takes them all.
    """
    jobs: Sequence[Job] = max(batches(problem.samples("fit").jobs[:samples], samples), key=len)
    least = min(LEAST, samples)
    if not can_close(problem, section) or len(jobs) < least:
        return None
    tokens = Tokens(problem)
    with torch.no_grad():
        full = full_runs(pipe, problem, jobs, tokens)
        while full and len(jobs) >= least:
            fitted = _closed(pipe, problem, section, jobs, tokens, full)
            if fitted is not None:
                return fitted
            jobs = jobs[: len(jobs) // 2]  # all at once may not fit memory
    return None


def _closed(
    pipe: Any, problem: Problem, section: NetworkPlan, jobs: Sequence[Job], tokens: Tokens, full: Sequence[Seen]
) -> NetworkPlan | None:
    together = {key: np.concatenate([of[key] for of in full[: len(jobs)]]) for key in full[0]}
    with ClosingRollout(pipe, problem, section, tokens, together, len(jobs)) as rollout:
        try:
            sample_latents(pipe, jobs, problem.workload.num_steps, len(jobs))
        except torch.OutOfMemoryError:
            return None
    taps = rollout.taps.cpu().double().numpy()
    return with_taps(section, taps) if rollout.whole and np.isfinite(taps).all() else None
