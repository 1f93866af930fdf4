from __future__ import annotations

import pytest

from hyca_calib.costs.budget import TOLERANCE, Budget, parse_budgets
from hyca_calib.costs.flops import CostModel
from hyca_runtime.errors import BudgetError

COST = CostModel(full_flops=1000.0, tail_flops=4.0, feature_numel=0, full_seconds=1.0, predicted_seconds=0.01)


@pytest.mark.parametrize(
    ("text", "steps"), [("5x", 9), ("20%", 9), ("10 steps", 10), ("1x", 50), ("2.5x", 19), ("2X", 24)]
)
def test_a_plan_never_exceeds_its_budget(text: str, steps: int) -> None:
    budget = Budget.parse(text)
    assert budget.computed_steps(COST, 50, 3) == steps
    if budget.share is not None:
        assert COST.run_flops(50, steps, 3) <= budget.share * 50 * COST.full_flops + 1e-6
        assert steps == 50 or COST.run_flops(50, steps + 1, 3) > budget.share * 50 * COST.full_flops


@pytest.mark.parametrize(
    ("text", "strict", "lenient"), [("5x", 9, 10), ("2x", 24, 25), ("20%", 9, 10), ("4.7x", 10, 10)]
)
def test_whole_steps_may_go_a_little_over(text: str, strict: int, lenient: int) -> None:
    assert Budget.parse(text).computed_steps(COST, 50, 3) == strict
    budget = Budget.parse(text, TOLERANCE)
    assert budget.computed_steps(COST, 50, 3) == lenient
    assert budget.share is not None
    assert COST.run_flops(50, lenient, 3) <= (1 + TOLERANCE) * budget.share * 50 * COST.full_flops
    assert budget.told == {"asked": text, "tolerance": TOLERANCE}
    assert Budget.parse("10 steps", TOLERANCE) == Budget.parse("10 steps"), "steps are counted, whatever they cost"


@pytest.mark.parametrize(
    "text", ["banana", "0.5x", "5", "-5x", "0%", "120%", "0 steps", "", "x", "nanx", "1e3x", "5x5x"]
)
def test_bad_budgets(text: str) -> None:
    with pytest.raises(BudgetError, match="budget"):
        Budget.parse(text)


def test_out_of_reach() -> None:
    with pytest.raises(BudgetError, match="ask for at most 41x"):
        Budget.parse("100x").computed_steps(COST, 50, 3)
    with pytest.raises(BudgetError, match="only 50 steps"):
        Budget.parse("60 steps").computed_steps(COST, 50, 3)


def test_several_budgets_once_each() -> None:
    assert [b.text for b in parse_budgets("2x, 5x,2x,10 steps")] == ["2x", "5x", "10steps"]
