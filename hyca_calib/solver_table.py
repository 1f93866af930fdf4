"""What each closed-form solver does, measured on numbers: order, noise, cold start."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np

from hyca_runtime.solvers import (
    BDF2,
    BDF3,
    AdamsBashforth,
    AdamsMoulton,
    ClosedFormSolver,
    Exponential,
    FoCa,
    Hermite,
    Hold,
    Instant,
    Newton,
    RungeKutta,
    Taylor,
)

__all__ = ["ALL_SOLVERS", "SolverFacts", "facts_of", "solver_label", "to_markdown"]

ALL_SOLVERS: tuple[ClosedFormSolver, ...] = (
    Hold(),
    Newton(1),
    Newton(2),
    Newton(3),
    Newton(4),
    Taylor(2),
    Taylor(3),
    AdamsBashforth(2),
    AdamsBashforth(3),
    AdamsBashforth(4),
    AdamsMoulton(),
    BDF2(),
    BDF2(slope=True),
    BDF3(),
    BDF3(slope=True),
    RungeKutta(),
    FoCa(),
    Hermite(1),
    Hermite(2),
    Exponential(-0.5),
    Exponential(-1.0),
)
"""Every solver with the settings of the papers."""

UNEVEN = np.array([0.55, 0.61, 0.8, 0.84, 1.0])
AHEAD = 0.37


@dataclass(frozen=True)
class SolverFacts:
    """Measured behaviour.

    Attributes:
        order: exponent of the error in the gap, on exp at uneven times.
        noise: sum of absolute weights at even spacing, 1 and 4 gaps ahead: how white noise in the
            history comes out at worst.
        cold: order with one, two ... features, until the solver is warm.
    """

    label: str
    depth: int
    exact_degree: int
    order: float
    noise: tuple[float, float]
    cold: tuple[float, ...]


def facts_of(solver: ClosedFormSolver) -> SolverFacts:
    """Measure one solver."""
    even = np.arange(0.0, -solver.depth, -1.0)
    return SolverFacts(
        label=solver_label(solver),
        depth=solver.depth,
        exact_degree=solver.exact_degree,
        order=_order(solver, solver.depth),
        noise=(_noise(solver, even, 1.0), _noise(solver, even, 4.0)),
        cold=tuple(_order(solver, count) for count in range(1, solver.depth)),
    )


def solver_label(solver: ClosedFormSolver) -> str:
    """``newton order=2``: name and settings that differ from the defaults."""
    own, defaults = asdict(solver), asdict(type(solver)())  # type: ignore[call-overload]
    told = [f"{key}={value:g}" for key, value in own.items() if value != defaults[key] or key == "order"]
    return " ".join([solver.name, *told])


def to_markdown(facts: list[SolverFacts]) -> str:
    """The table."""
    lines = [
        "# Solvers",
        "",
        "Made by `python -m hyca_calib solvers`. Order: exponent of the error of extrapolating exp at uneven",
        "times when all gaps are halved. Noise: sum of absolute weights, one and four gaps ahead at even",
        "spacing. Cold: order with one, two ... features only. Every formula is derived in the docstring of",
        "its file in `hyca_runtime/solvers/`.",
        "",
        "| solver | features | exact up to degree | order | noise at 1 | noise at 4 | cold |",
        "|---|---:|---:|---:|---:|---:|---|",
    ]
    for f in facts:
        cold = ", ".join(f"{order:.1f}" for order in f.cold) or "-"
        noise = " | ".join(f"{sum_:.2f}" for sum_ in f.noise)
        lines.append(f"| {f.label} | {f.depth} | {f.exact_degree} | {f.order:.2f} | {noise} | {cold} |")
    return "\n".join(lines) + "\n"


def _weights(solver: ClosedFormSolver, times: np.ndarray, target: float) -> np.ndarray:
    return solver.rows([Instant(-i, t) for i, t in enumerate(times)], Instant(1, target))[:, 0]


def _noise(solver: ClosedFormSolver, times: np.ndarray, ahead: float) -> float:
    return float(np.abs(_weights(solver, times, ahead)).sum())


def _order(solver: ClosedFormSolver, count: int) -> float:
    errors = []
    for scale in (2.0**-5, 2.0**-6):
        times = scale * UNEVEN[:count]
        errors.append(abs(_weights(solver, times, scale * AHEAD) @ np.exp(times) - np.exp(scale * AHEAD)))
    return float(np.log2(errors[0] / errors[1]))
