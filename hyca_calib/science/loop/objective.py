"""What the offline objective must know of the closed loop: that errors heal, and that debts can be repaid."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from hyca_calib.budget import Budget
from hyca_calib.science.chapter import Claim, Context, Table, interval
from hyca_calib.science.loop.contest import Samples, log_errors
from hyca_calib.search.assemble import build_section
from hyca_calib.search.candidate import Candidate, Settings
from hyca_calib.search.confirm import REPAID
from hyca_calib.search.problem import Problem
from hyca_calib.search.refine import to_db
from hyca_calib.search.tune import solve

__all__ = ["claims", "measured", "tables"]

BUDGETS = ("3x", "5x", "7x", "8x")
SHARES = (0.0, *REPAID)
MATTERS_DB = 0.1


def measured(context: Context, settings: Settings, samples: Samples) -> dict[str, Any]:
    """PSNR of the final latents of optimal schedules: with errors as the sampler carries them, and as they heal.

    Returns:
        For each budget both schedules, their PSNR for each sample, and that of the second with shares repaid.
    """
    problem = context.problem
    found = {}
    for text in BUDGETS[:1] if context.quick else BUDGETS:
        schedules = {
            "carried": solve(replace(problem, healing=()), settings, (Budget.parse(text),), context.seed)[0].schedule,
            "healing": solve(problem, settings, (Budget.parse(text),), context.seed)[0].schedule,
        }
        candidates = {name: Candidate(settings, schedule, 0.0) for name, schedule in schedules.items()}
        healing = candidates["healing"]
        repaid = {share: replace(healing, settings=replace(settings, repay=share)) for share in SHARES[1:]}
        found[text] = {
            "computed": {name: list(schedule.computed_steps) for name, schedule in schedules.items()},
            "psnr_db": {name: _psnr(context, problem, one, samples) for name, one in candidates.items()},
            "repaid_db": {f"{share:g}": _psnr(context, problem, one, samples) for share, one in repaid.items()},
        }
    return {"budgets": found, "healing": list(problem.healing)}


def _psnr(context: Context, problem: Problem, candidate: Candidate, samples: Samples) -> list[float]:
    section = build_section(problem, candidate, context.seed)
    return [to_db(error) for error in log_errors(context.pipe, section, samples, problem.inference_steps)]


def tables(found: dict[str, Any], seed: int) -> tuple[Table, Table]:
    """Schedules, then shares that are repaid."""
    rows, repaid = [], []
    for text, at in found["budgets"].items():
        carried, healing = (np.array(at["psnr_db"][name]) for name in ("carried", "healing"))
        mean, low, high = interval((healing - carried).tolist(), seed)
        steps = [" ".join(map(str, at["computed"][name])) for name in ("carried", "healing")]
        gain = f"{mean:+.2f} ({low:+.2f} to {high:+.2f})"
        rows.append((text, steps[0], float(carried.mean()), steps[1], float(healing.mean()), gain))
        repaid.append((text, float(healing.mean()), *(float(np.mean(db)) for db in at["repaid_db"].values())))
    head = ("budget", "as the sampler carries errors", "dB", "less what heals", "dB", "gain, dB (95 %)")
    shares = ("budget", *(f"{share:g}" for share in SHARES))
    return (
        Table("Optimal schedules of two objectives, fitted taps, rolled out on the select split.", head, tuple(rows)),
        Table("Share of earlier errors that the rows repay, same schedules: dB.", shares, tuple(repaid)),
    )


def claims(found: dict[str, Any]) -> tuple[Claim, ...]:
    """Verdicts by the means over the budgets."""
    gains, best = [], []
    for at in found["budgets"].values():
        carried, healing = (float(np.mean(at["psnr_db"][name])) for name in ("carried", "healing"))
        gains.append(healing - carried)
        best.append(max(float(np.mean(db)) for db in at["repaid_db"].values()) - healing)
    left = found["healing"][1] if found["healing"] else 1.0
    told = ", ".join(f"{text} {gain:+.2f} dB" for text, gain in zip(found["budgets"], gains, strict=True))
    repaid = ", ".join(f"{text} {gain:+.2f} dB" for text, gain in zip(found["budgets"], best, strict=True))
    return (
        Claim(
            "The offline objective must know that errors heal.",
            "holds" if np.mean(gains) > MATTERS_DB and min(gains) > -MATTERS_DB else "fails",
            f"of an error at the second step {100 * left:.0f} % is left in the end; schedules that are optimal for "
            f"what is left gain, before any rollout: {told}.",
        ),
        Claim(
            "Rows that repay earlier errors pay.",
            "holds" if min(best) > MATTERS_DB else "partly" if np.mean(best) > MATTERS_DB else "fails",
            f"the best share for each budget: {repaid}.",
        ),
    )
