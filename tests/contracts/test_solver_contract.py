"""What every solver must keep. A new closed-form solver adds one line to `ALL_SOLVERS`."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import ClassVar

import numpy as np
import pytest

from hyca_calib.search.solver_table import ALL_SOLVERS
from hyca_runtime.group import SolverSpec
from hyca_runtime.solvers import (
    BDF2,
    BDF3,
    AdamsBashforth,
    AdamsMoulton,
    Aligned,
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
)
from hyca_runtime.solvers.base import OrderedSolver
from hyca_runtime.testing import SOLVER_CHECKS, check_depth, check_unit_of_time, weights_of

SOLVERS = [
    *ALL_SOLVERS,
    Aligned(),
    Taylor(1),
    Hermite(3),
    Hermite(1, sigma=0.5**0.5),
    Exponential(0.3),
    Exponential(0.0),
]


def name(solver: ClosedFormSolver) -> str:
    return "-".join([solver.name, *(f"{value:.3g}" for value in asdict(solver).values())])  # type: ignore[call-overload]


@pytest.mark.parametrize("check", SOLVER_CHECKS)
@pytest.mark.parametrize("solver", SOLVERS, ids=name)
def test_solver_contract(solver: ClosedFormSolver, check: Callable[[ClosedFormSolver], None]) -> None:
    check(solver)


@dataclass(frozen=True)
class Broken(ClosedFormSolver):
    """Linear extrapolation that loses a hundredth."""

    name: ClassVar[str] = "newton"
    depth: ClassVar[int] = 2
    exact_degree: ClassVar[int] = 1

    def rows(self, past: Sequence[Instant], target: Instant) -> np.ndarray:
        return 0.99 * super().rows(past, target)

    def weights(self, times: np.ndarray, target: float) -> np.ndarray:
        return Newton(1).weights(times, target)


@pytest.mark.parametrize("check", [c for c in SOLVER_CHECKS if c not in (check_depth, check_unit_of_time)])
def test_the_contract_refuses_a_broken_solver(check: Callable[[ClosedFormSolver], None]) -> None:
    with pytest.raises(AssertionError, match=r"got|it is"):
        check(Broken())


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
    assert weights_of(solver, np.array([4.0, 3.0, 2.0, 1.0, 0.0]), 5.0) == pytest.approx(expected, abs=1e-12)


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
    assert weights_of(solver, np.array([3.0, 1.0, 0.0]), 6.0) == pytest.approx(expected, abs=1e-12)


def test_exponential_relaxation_is_followed_exactly() -> None:
    times = np.array([0.6, 0.8])
    values = 3.0 - 2.0 * np.exp(1.5 * (0.6 - times) / 0.2)
    assert weights_of(Exponential(-1.5 * -1.0), times, 0.37) @ values == pytest.approx(
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
