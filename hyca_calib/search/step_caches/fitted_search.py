"""A step cache that forecasts by fitted and refined rows in place of its own formula, and decides as published."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from hyca_calib.costs.budget import Budget
from hyca_calib.search.options import Refinement
from hyca_calib.search.problem import Problem
from hyca_calib.search.step_caches.fitted_taps import DEPTH, decides_anew, refine_rows, rows_met
from hyca_calib.search.step_caches.search import Contenders, find_threshold, in_reach, write_found
from hyca_calib.search.study import StudyFolder
from hyca_runtime.errors import BudgetError
from hyca_runtime.plan import Plan, load_plan

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
    with study.last_word():
        if study.complete:  # another worker was faster
            return load_plan(study.plan)
        own = find_threshold(pipe, problem, budget, study, contenders, lambda share: tell("threshold", share / 2, ""))

        def refined(share: float, psnr: float) -> None:
            tell("refine", share, f"latent PSNR {psnr:.2f} dB")

        def without(reason: str) -> Plan:
            tell("threshold", 1.0, "")
            told = {"contenders": own.contenders, "fitted": {"skipped": reason}}
            return write_found(pipe, problem, budget, study, own, told)

        for best in sorted(own.judged, key=lambda one: one.psnr_db, reverse=True):
            met = rows_met(pipe, problem, best.section)
            rule, stack = replace(best.rule, groups=met[0].groups), best.stack.weighing(DEPTH, best.rule)
            if not decides_anew(best.section) or in_reach(pipe, problem, budget, study, rule, stack):
                break
        else:
            return without("no settings meet the budget by what fitted rows decide")
        taps, account = refine_rows(pipe, problem, best.section, met, refinement, study, seed, refined)
        wanted = [(replace(rule, groups=taps.groups), stack)]
        try:
            fitted = find_threshold(
                pipe, problem, budget, study, wanted, lambda share: tell("threshold", (1 + share) / 2, "")
            )
        except BudgetError as error:
            return without(str(error))
        tell("threshold", 1.0, "")
        better = fitted if fitted.best.psnr_db >= own.best.psnr_db else own
        told = {
            "refinement": account if better is fitted else {"skipped": "the plan without it agrees better"},
            "contenders": own.contenders,
            "fitted": {
                "pasts": len(taps.weights),
                "psnr_db": fitted.best.psnr_db,
                f"{own.best.rule.forecast_by}_psnr_db": own.best.psnr_db,
            },
        }
        return write_found(pipe, problem, budget, study, better, told)
