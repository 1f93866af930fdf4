"""What the offline objective must know of the closed loop: that errors heal, and that debts can be repaid."""

from dataclasses import replace

import numpy as np

from hyca_calib.search.problem import Samples
from hyca_calib.search.rollout_search import FEEDBACK_SHARES
from hyca_calib.search.settings import Settings
from studies.paper.chapter import Context, Numbers, Rulings, Table
from studies.paper.intervals import all_above, difference, told_db
from studies.paper.rollouts import optimum, psnr_db
from studies.paper.words import claims, table

BUDGETS = ("3x", "5x", "7x", "8x")
SHARES = (0.0, *FEEDBACK_SHARES)
MATTERS_DB = 0.1
HALF = FEEDBACK_SHARES[0]
CARRIED, HEALING = WAYS = ("carried", "healing")


def measured(context: Context, settings: Settings, samples: Samples) -> Numbers:
    """PSNR of the final latents of optimal schedules: with errors as the sampler carries them, and as they heal.

    At each budget of both schedules, and of the second with shares of its earlier errors repaid.
    """
    problem = context.problem
    problems = {CARRIED: replace(problem, damping=()), HEALING: problem}
    found = {}
    for text in BUDGETS[:1] if context.quick else BUDGETS:
        best = {name: optimum(context, settings, text, of) for name, of in problems.items()}
        candidates = {name: replace(one, problem=problem) for name, one in best.items()}
        repaid = {f"{share:g}": candidates[HEALING].moved(repay=share) for share in FEEDBACK_SHARES}
        found[text] = {
            "computed": {name: list(one.schedule.computed_steps) for name, one in candidates.items()},
            "psnr_db": {name: psnr_db(context.pipe, one, samples) for name, one in candidates.items()},
            "repaid_db": {share: psnr_db(context.pipe, one, samples) for share, one in repaid.items()},
        }
    return {"budgets": found, "healing": list(problem.damping)}


def tables(found: Numbers) -> tuple[Table, Table]:
    """Schedules, then shares that are repaid."""
    schedules, repaid = {}, {}
    for text, at in found["budgets"].items():
        steps = [" ".join(map(str, at["computed"][name])) for name in WAYS]
        carried, healing = (float(np.mean(at["psnr_db"][name])) for name in WAYS)
        gain = told_db(difference(*(at["psnr_db"][name] for name in WAYS[::-1])))
        schedules[text] = (steps[0], carried, steps[1], healing, gain)
        repaid[text] = [healing, *(float(np.mean(db)) for db in at["repaid_db"].values())]
    shares = table("closed-loop", "shares", repaid, columns=[f"{share:g}" for share in SHARES])
    return table("closed-loop", "objectives", schedules), shares


def rulings(found: Numbers) -> Rulings:
    """At each budget, by the same samples under both."""
    at, left = found["budgets"], found["healing"][1] if found["healing"] else 1.0
    gains = {text: difference(b["psnr_db"][HEALING], b["psnr_db"][CARRIED]) for text, b in at.items()}
    repaid = {text: difference(b["repaid_db"][f"{HALF:g}"], b["psnr_db"][HEALING]) for text, b in at.items()}
    met = {name: all_above(of.values(), MATTERS_DB) for name, of in (("healing", gains), ("repaid", repaid))}
    return claims("closed-loop", met, left=left, gains=gains, repaid=repaid, matters=MATTERS_DB)
