"""What every solver must keep. A new closed-form solver adds one line to `ALL_SOLVERS`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict

import numpy as np
import pytest

from hyca_calib.search.solver_table import ALL_SOLVERS
from hyca_runtime.group import SolverSpec
from hyca_runtime.solvers import (
    BDF2,
    BDF3,
    AdamsBashforth,
    AdamsMoulton,
    ClosedFormSolver,
    DynamicMode,
    Exponential,
    Fitted,
    FoCa,
    Hermite,
    Hold,
    Instant,
    Newton,
    RungeKutta,
    Taylor,
    solver_from_spec,
    solvers,
)
from hyca_runtime.solvers.base import OrderedSolver

SOLVERS = [
    *ALL_SOLVERS,
    Taylor(1),
    Hermite(3),
    Hermite(1, sigma=0.5**0.5),
    Exponential(0.3),
    Exponential(0.0),
]
UNEVEN = np.array([0.55, 0.61, 0.8, 0.84, 1.0])  # newest first: times of a sampler fall
TARGET = 0.37


def name(solver: ClosedFormSolver) -> str:
    return "-".join([solver.name, *(f"{value:.3g}" for value in asdict(solver).values())])  # type: ignore[call-overload]


def weights(solver: ClosedFormSolver, times: np.ndarray = UNEVEN, target: float = TARGET) -> np.ndarray:
    past = [Instant(-i, t) for i, t in enumerate(times)]
    return solver.rows(past, Instant(1, target))[:, 0]


@pytest.mark.parametrize("solver", SOLVERS, ids=name)
class TestSolverContract:
    def test_constants_are_kept(self, solver: ClosedFormSolver) -> None:
        assert weights(solver).sum() == pytest.approx(1.0, abs=1e-12)

    def test_forecasts_of_the_newest_step_are_that_step(self, solver: ClosedFormSolver) -> None:
        """A run with more steps than its plan stays on the plan's last step for a while."""
        np.testing.assert_array_equal(weights(solver, target=UNEVEN[0]), np.eye(len(weights(solver)))[0])

    def test_uses_no_more_than_its_depth(self, solver: ClosedFormSolver) -> None:
        assert len(weights(solver)) == solver.depth

    def test_exact_on_polynomials_up_to_its_degree(self, solver: ClosedFormSolver) -> None:
        for degree in range(solver.exact_degree + 1):
            values = UNEVEN[: solver.depth] ** degree
            assert weights(solver) @ values == pytest.approx(TARGET**degree, abs=1e-10)

    def test_degree_is_not_understated(self, solver: ClosedFormSolver) -> None:
        degree = solver.exact_degree + 1
        error = weights(solver) @ UNEVEN[: solver.depth] ** degree - TARGET**degree
        assert abs(error) > 1e-6

    def test_measured_order(self, solver: ClosedFormSolver) -> None:
        """Halving all gaps divides the error of exp by 2 to the (degree + 1)."""
        errors = []
        for h in (2.0**-5, 2.0**-6):
            times = UNEVEN * h
            errors.append(abs(weights(solver, times, TARGET * h) @ np.exp(times[: solver.depth]) - np.exp(TARGET * h)))
        order = np.log2(errors[0] / errors[1])
        assert order == pytest.approx(solver.exact_degree + 1, abs=0.25)

    def test_unit_and_origin_of_time_do_not_matter(self, solver: ClosedFormSolver) -> None:
        moved = weights(solver, 1000 * UNEVEN - 40, 1000 * TARGET - 40)
        assert moved == pytest.approx(weights(solver), rel=1e-8)

    def test_cold_start(self, solver: ClosedFormSolver) -> None:
        for count in range(1, solver.depth + 1):
            row = weights(solver, UNEVEN[:count])
            assert len(row) == count
            assert row.sum() == pytest.approx(1.0)
        assert weights(solver, UNEVEN[:1]).tolist() == [1.0]

    def test_spec_round_trip(self, solver: ClosedFormSolver) -> None:
        spec = SolverSpec.model_validate_json(json.dumps(solver.spec().model_dump()))
        assert solver_from_spec(spec) == solver
        assert solver.name in set(solvers)


@pytest.mark.parametrize(
    ("solver", "expected"),
    [
        (Hold(), [1]),
        (Newton(1), [2, -1]),
        (Newton(2), [3, -3, 1]),
        (Newton(3), [4, -6, 4, -1]),
        (Taylor(1), [2, -1]),
        (Taylor(2), [5 / 2, -2, 1 / 2]),
        (AdamsBashforth(2), [5 / 2, -2, 1 / 2]),
        (AdamsBashforth(3), [35 / 12, -39 / 12, 21 / 12, -5 / 12]),
        (AdamsMoulton(), [55 / 24, -38 / 24, 7 / 24]),
        (BDF2(), [4 / 3, -1 / 3]),
        (BDF2(slope=True), [2, -1]),
        (BDF3(), [18 / 11, -9 / 11, 2 / 11]),
        (BDF3(slope=True), [24 / 11, -15 / 11, 2 / 11]),
        (FoCa(), [5 / 3, -2 / 3]),
        (RungeKutta(), [3 / 2, 0, -1 / 2]),
        (Hermite(1), [3 / 2, -1 / 2]),
        (Hermite(1, sigma=0.5**0.5), [2, -1]),
        (Hermite(2), [11 / 8, -1 / 4, -1 / 8]),
        (Exponential(0.0), [2, -1]),
        (Exponential(-np.log(2.0)), [3 / 2, -1 / 2]),
    ],
    ids=lambda value: name(value) if isinstance(value, ClosedFormSolver) else "",
)
def test_rows_worked_by_hand_at_even_spacing(solver: ClosedFormSolver, expected: list[float]) -> None:
    assert weights(solver, np.array([4.0, 3.0, 2.0, 1.0, 0.0]), 5.0) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("solver", "expected"),
    [
        (Newton(1), [2.5, -1.5]),  # gaps 2 then 3 ahead: 1 + 3/2
        (BDF2(), [1 + 9 / 16, -9 / 16]),  # omega 3/2: omega^2 / (1 + 2 omega)
        (FoCa(), [1 + (3 / 2 + 9 / 16) / 2, -(3 / 2 + 9 / 16) / 2]),
        (Taylor(2), [1 + 3 / 2 + 9 / 8, -3 / 2 - 9 / 8 - 9 / 4, 9 / 4]),
    ],
    ids=lambda value: name(value) if isinstance(value, ClosedFormSolver) else "",
)
def test_rows_worked_by_hand_at_uneven_spacing(solver: ClosedFormSolver, expected: list[float]) -> None:
    assert weights(solver, np.array([3.0, 1.0, 0.0]), 6.0) == pytest.approx(expected, abs=1e-12)


def test_exponential_relaxation_is_followed_exactly() -> None:
    times = np.array([0.6, 0.8])
    values = 3.0 - 2.0 * np.exp(1.5 * (0.6 - times) / 0.2)
    assert weights(Exponential(-1.5 * -1.0), times, 0.37) @ values == pytest.approx(
        3.0 - 2.0 * np.exp(1.5 * (0.6 - 0.37) / 0.2), rel=1e-10
    )


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: Hermite(1, sigma=0.0), "sigma"),
        (lambda: Exponential(99.0), "rate"),
        (lambda: DynamicMode(limit=0.0), "limit"),
        (lambda: DynamicMode(limit=float("nan")), "limit"),
    ],
)
def test_settings_out_of_range_are_refused(make: Callable[[], ClosedFormSolver], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        make()


@pytest.mark.parametrize("kind", [Newton, Taylor, AdamsBashforth, Hermite])
def test_orders_out_of_range_are_refused(kind: type[OrderedSolver]) -> None:
    with pytest.raises(ValueError, match="order must be"):
        kind(9)


class TestFitted:
    table = np.arange(2 * 3 * 5, dtype=np.float64).reshape(2, 3, 5)

    def test_returns_the_row_of_a_step(self) -> None:
        solver = Fitted((3, 4), self.table)
        past = [Instant(2, 0.5), Instant(1, 0.6)]
        assert (solver.rows(past, Instant(4, 0.4)) == self.table[1, :2]).all()

    def test_unknown_step(self) -> None:
        with pytest.raises(ValueError, match="no taps for step 7"):
            Fitted((3, 4), self.table).rows([Instant(2, 0.5)], Instant(7, 0.1))

    @pytest.mark.parametrize("scale", [1, 200], ids=["readable", "packed"])
    def test_round_trip_keeps_float32(self, scale: int) -> None:
        table = np.random.default_rng(0).normal(size=(2, 3, 5 * scale)).astype(np.float32)
        spec = SolverSpec.model_validate_json(json.dumps(Fitted((3, 4), table * np.float64(1)).spec().model_dump()))
        again = solver_from_spec(spec)
        assert isinstance(again, Fitted)
        assert again.steps == (3, 4)
        assert (again.weights.astype(np.float32) == table).all()

    @pytest.mark.parametrize(
        ("weights", "reason"),
        [
            ([[[1.0, float("nan")]]], "finite"),
            ([[[1.0], [1.0, 2.0]]], "even length"),
            ([[1.0]], "expected weights"),
            ({"shape": [1, 1, 2], "float32": "AAAA"}, "needs 8 bytes"),
            ({"shape": [1, 1, 2], "float32": "??"}, "base64"),
            ({"shape": [1]}, "keys shape and float32"),
        ],
    )
    def test_bad_tables(self, weights: object, reason: str) -> None:
        with pytest.raises(ValueError, match=reason):
            solver_from_spec(SolverSpec(name="fitted", configuration={"steps": [1], "weights": weights}))
