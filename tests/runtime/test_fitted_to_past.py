"""Rows for the pasts that runs have met."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tiny
from plans import changed, make_plan

from hyca_runtime.forecast import Forecast
from hyca_runtime.group import DimensionGroup
from hyca_runtime.policies import PolicySpec
from hyca_runtime.schedule import EVERY
from hyca_runtime.solvers import FittedToPast, Instant, Newton, solver_from_spec

PASTS = ((4, 3), (4, 3, 1), (5, 3, 1))
WEIGHTS = np.arange(1.0, 7.0).reshape(3, 2, 1)


def at(*steps: int) -> list[Instant]:
    return [Instant(step, float(step) ** 2) for step in steps]


@pytest.mark.parametrize(
    ("past", "step", "row"),
    [((3, 1, 0), 4, [3.0, 4.0]), ((3, 2), 4, [1.0]), ((3,), 4, [1.0]), ((3, 1), 5, [5.0, 6.0])],
)
def test_the_longest_known_past_serves(past: tuple[int, ...], step: int, row: list[float]) -> None:
    solver = FittedToPast(PASTS, WEIGHTS)
    assert solver.rows(at(*past), at(step)[0])[:, 0].tolist() == row
    again = solver_from_spec(solver.spec())
    assert again.rows(at(*past), at(step)[0])[:, 0].tolist() == row


@pytest.mark.parametrize(("past", "step"), [((2, 1), 4), ((3,), 5), ((4, 3), 6)])
def test_an_unknown_past_is_extrapolated(past: tuple[int, ...], step: int) -> None:
    rows = FittedToPast(PASTS, WEIGHTS).rows(at(*past), at(step)[0])
    np.testing.assert_array_equal(rows, Newton(1).rows(at(*past), at(step)[0]))


@pytest.mark.parametrize(
    ("pasts", "told"),
    [
        (((4,), *PASTS[1:]), r"expected a step and at most 2 earlier ones, newest first, got \[4\]"),
        (((4, 5), *PASTS[1:]), r"newest first, got \[4, 5\]"),
        (((4, 3, 2, 1), *PASTS[1:]), r"newest first, got \[4, 3, 2, 1\]"),
        (((4, -1), *PASTS[1:]), r"newest first, got \[4, -1\]"),
        ((PASTS[1], *PASTS[1:]), "a past has two rows"),
        (PASTS[:2], r"expected weights \(pasts=2, taps, width\), got shape \(3, 2, 1\)"),
    ],
)
def test_tables_that_make_no_sense(pasts: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        FittedToPast(pasts, WEIGHTS)


def test_a_plan_with_a_policy_weighs_any_past_on_its_steps_and_extrapolates_between_them() -> None:
    plan = make_plan(tiny.pipeline(blocks=1).transformer)
    channels = plan.section.forecast.num_channels
    group = DimensionGroup(name="all", channels=f"0-{channels - 1}", solver=FittedToPast(PASTS, WEIGHTS).spec())
    points = {plan.section.only: Forecast(at=plan.section.forecast.at, num_channels=channels, groups={EVERY: (group,)})}
    section = changed(plan, points=points, policy=PolicySpec(name="careful_end")).section
    assert section.forecast.free_depth == 2
    assert section.weights_at([3.0, 1.0, 0.0], 4.0)[:, 0].tolist() == [3.0, 4.0]
    between = section.weights_at([3.0, 1.0], 4.5)
    assert between[:, 0].sum() == pytest.approx(1.0)
    assert between[0, 0] == pytest.approx(1 + 1.5 / 2)
