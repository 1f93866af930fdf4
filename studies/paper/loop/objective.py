"""What the offline objective must know of the closed loop: that errors heal, and that debts can be repaid."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from hyca_calib.costs.budget import Budget
from hyca_calib.search.candidate import Candidate, Settings
from hyca_calib.search.problem import Samples
from hyca_calib.search.rollout_search import FEEDBACK_SHARES
from hyca_calib.search.tune import solve
from studies.paper.chapter import Claim, Context, Table
from studies.paper.effects import Ratio, difference
from studies.paper.rollouts import fitted_psnr_db
from studies.paper.ruling import all_above, ruled, told_db

BUDGETS = ("3x", "5x", "7x", "8x")
SHARES = (0.0, *FEEDBACK_SHARES)
MATTERS_DB = 0.1
HALF = FEEDBACK_SHARES[0]


def measured(context: Context, settings: Settings, samples: Samples) -> dict[str, Any]:
    """PSNR of the final latents of optimal schedules: with errors as the sampler carries them, and as they heal.

    Returns:
        For each budget both schedules, their PSNR for each sample, and that of the second with shares repaid.
    """
    problem = context.problem
    found = {}
    for text in BUDGETS[:1] if context.quick else BUDGETS:
        schedules = {
            "carried": solve(replace(problem, damping=()), settings, (Budget.parse(text),), context.seed)[0].schedule,
            "healing": solve(problem, settings, (Budget.parse(text),), context.seed)[0].schedule,
        }
        candidates = {
            name: Candidate(problem, settings, schedule, context.seed) for name, schedule in schedules.items()
        }
        healing = candidates["healing"]
        repaid = {share: healing.moved(repay=share) for share in SHARES[1:]}
        found[text] = {
            "computed": {name: list(schedule.computed_steps) for name, schedule in schedules.items()},
            "psnr_db": {name: fitted_psnr_db(context, one, samples) for name, one in candidates.items()},
            "repaid_db": {f"{share:g}": fitted_psnr_db(context, one, samples) for share, one in repaid.items()},
        }
    return {"budgets": found, "healing": list(problem.damping)}


def tables(found: dict[str, Any]) -> tuple[Table, Table]:
    """Schedules, then shares that are repaid."""
    rows, repaid = [], []
    for text, at in found["budgets"].items():
        carried, healing = (np.array(at["psnr_db"][name]) for name in ("carried", "healing"))
        steps = [" ".join(map(str, at["computed"][name])) for name in ("carried", "healing")]
        gain = told_db(difference(healing.tolist(), carried.tolist()))
        rows.append((text, steps[0], float(carried.mean()), steps[1], float(healing.mean()), gain))
        repaid.append((text, float(healing.mean()), *(float(np.mean(db)) for db in at["repaid_db"].values())))
    head = ("budget", "as the sampler carries errors", "dB", "less what heals", "dB", "gain, dB (95 %)")
    shares = ("budget", *(f"{share:g}" for share in SHARES))
    return (
        Table("Optimal schedules of two objectives, fitted taps, rolled out on the select split.", head, tuple(rows)),
        Table("Share of earlier errors that the rows repay, same schedules: dB.", shares, tuple(repaid)),
    )


def claims(found: dict[str, Any]) -> tuple[Claim, ...]:
    """Verdicts at each budget, by the same samples under both."""
    at, left = found["budgets"], found["healing"][1] if found["healing"] else 1.0
    gains = {text: difference(b["psnr_db"]["healing"], b["psnr_db"]["carried"]) for text, b in at.items()}
    repaid = {text: difference(b["repaid_db"][f"{HALF:g}"], b["psnr_db"]["healing"]) for text, b in at.items()}
    return (
        ruled(
            f"The offline objective must know that errors heal (at every budget its schedules gain over {MATTERS_DB:g} "
            "dB).",
            lambda: (all_above(gains.values(), MATTERS_DB), _healed(left, gains)),
        ),
        ruled(
            f"Rows that repay half of earlier errors pay (at every budget over {MATTERS_DB:g} dB).",
            lambda: (all_above(repaid.values(), MATTERS_DB), f"half of the debt repaid gains {_listed(repaid)}."),
        ),
    )


def _healed(left: float, gains: dict[str, Ratio]) -> str:
    return (
        f"of an error at the second step {100 * left:.0f} % is left in the end; schedules that are optimal for what is "
        f"left gain, before any rollout: {_listed(gains)}."
    )


def _listed(found: dict[str, Ratio]) -> str:
    return ", ".join(f"{text} {mean:+.2f} dB ({low:+.2f} to {high:+.2f})" for text, (mean, low, high) in found.items())
