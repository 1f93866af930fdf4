"""HyCa as its paper describes it, beside what is built on it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import get_args

from hyca_calib.budget import Budget
from hyca_calib.replay import Multistep
from hyca_calib.search.presets import PRESETS, preset_section
from hyca_calib.search.problem import Problem
from hyca_runtime import Plan

__all__ = ["PUBLISHED", "published_plans"]

PUBLISHED = "HyCa as published"


def published_plans(problem: Problem, budgets: Sequence[Budget], seed: int) -> list[tuple[str, Plan]]:
    """The recipe (arXiv 2510.04188) at each budget, its formulas used both ways over a gap; equal plans once."""
    found: dict[str, tuple[str, Plan]] = {}
    for budget, multistep in itertools.product(budgets, get_args(Multistep)):
        _, section = preset_section(problem, PRESETS["hyca"], budget, seed, multistep)
        plan = Plan(name=f"hyca-{multistep}-{budget.text}", sections=(section,))
        name = f"{PUBLISHED}, {multistep} {budget.text}"
        found.setdefault(plan.model_dump_json(include={"sections"}), (name, plan))
    return list(found.values())
