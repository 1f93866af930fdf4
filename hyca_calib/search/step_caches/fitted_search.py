"""A step cache that forecasts by fitted and refined rows in place of its own formula, and decides as published."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from hyca_calib.costs.budget import Budget
from hyca_calib.search.options import Refinement
from hyca_calib.search.problem import Problem
from hyca_calib.search.step_caches.fitted_taps import DEPTH, fit_taps
from hyca_calib.search.step_caches.search import Contenders, find_threshold, write_found
from hyca_calib.search.study import StudyFolder
from hyca_runtime.plan import Plan

Tell = Callable[[str, float, str], None]
"""Told the stage, the share of it that is done, and news."""


def search_fitted(
    pipe: Any,
    problem: Problem,
    budget: Budget,
    study: StudyFolder,
    contenders: Contenders,
    refinement: Refinement,
    seed: int,
    tell: Tell,
) -> Plan:
    """The better plan of a rule with its own forecasts and one with fitted ones, each with its threshold for `budget`.

    Args:
        contenders: of rules at whose points the trace of `problem` is, see `traced_rules`.

    Raises:
        BudgetError: no threshold meets the budget.
    """
    own = find_threshold(pipe, problem, budget, study, contenders, lambda share: tell("threshold", share / 2, ""))
    best = own.best

    def refined(share: float, psnr: float) -> None:
        tell("refine", share, f"latent PSNR {psnr:.2f} dB")

    taps, account = fit_taps(pipe, problem, best.section, refinement, study.refinement, seed, refined)
    rule, stack = replace(best.rule, groups=taps.groups), best.stack.weighing(DEPTH, best.rule)
    fitted = find_threshold(
        pipe, problem, budget, study, [(rule, stack)], lambda share: tell("threshold", (1 + share) / 2, "")
    )
    tell("threshold", 1.0, "")
    better = fitted if fitted.best.psnr_db >= best.psnr_db else own
    told = {
        "refinement": account if better is fitted else {"skipped": "the plan without it agrees better"},
        "contenders": own.contenders,
        "fitted": {
            "pasts": len(taps.weights),
            "psnr_db": fitted.best.psnr_db,
            f"{best.rule.forecast_by}_psnr_db": best.psnr_db,
        },
    }
    return write_found(pipe, problem, budget, study, better, told)
