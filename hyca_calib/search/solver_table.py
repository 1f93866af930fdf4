"""What each solver does, measured on numbers: order, noise, cold start, decaying exponentials."""

from dataclasses import asdict, dataclass

import numpy as np
import torch

from hyca_runtime.solvers import (
    BDF2,
    BDF3,
    AdamsBashforth,
    AdamsMoulton,
    AdaptiveSolver,
    ClosedFormSolver,
    DynamicMode,
    Exponential,
    FoCa,
    Hermite,
    Hold,
    Instant,
    Newton,
    RungeKutta,
    Taylor,
)

ALL_SOLVERS: tuple[ClosedFormSolver, ...] = (
    Hold(),
    *map(Newton, (1, 2, 3, 4)),
    *map(Taylor, (2, 3)),
    *map(AdamsBashforth, (2, 3, 4)),
    AdamsMoulton(),
    *map(BDF2, (False, True)),
    *map(BDF3, (False, True)),
    RungeKutta(),
    FoCa(),
    *map(Hermite, (1, 2)),
    *map(Exponential, (-0.5, -1.0)),
    DynamicMode(),
)
"""Every solver with the settings of the papers."""

POOL: tuple[ClosedFormSolver, ...] = (
    Hold(),
    *map(Newton, (1, 2, 3)),
    *map(Taylor, (2, 3)),
    *map(AdamsBashforth, (2, 3)),
    AdamsMoulton(),
    BDF2(),
    BDF3(),
    RungeKutta(),
    FoCa(),
    *map(Exponential, (-0.5, -1.0)),
)
"""Closed-form solvers a group may prefer to its fitted taps. Taylor 1 and BDF 2 with slope are Newton 1."""

UNEVEN = np.array([0.55, 0.61, 0.8, 0.84, 1.0])
AHEAD = 0.37
GROWTH = np.array([1.0, -2.0])
"""Rates of two features that no single exponential goes through."""
DECAY = 3.0
"""Rate of two features that relax together as time falls."""


@dataclass(frozen=True)
class SolverFacts:
    """Measured behaviour.

    Attributes:
        order: exponent of the error in the gap at uneven times, on exp; for a solver that reads the
            features on two exponentials at once.
        noise: sum of absolute weights at even spacing, 1 and 4 gaps ahead: how white noise in the
            history comes out at worst. None if the weights depend on the features.
        relaxing: error on an exponential decay at uneven times, over that of reuse.
        cold: order with one, two ... features, until the solver is warm.
    """

    label: str
    depth: int
    exact_degree: int
    order: float
    noise: tuple[float, float] | None
    relaxing: float
    cold: tuple[float, ...]


def facts_of(solver: ClosedFormSolver) -> SolverFacts:
    """Measure one solver."""
    orders = tuple(_order(solver, count) for count in range(1, solver.depth + 1))
    return SolverFacts(
        label=solver_label(solver),
        depth=solver.depth,
        exact_degree=solver.exact_degree,
        order=orders[-1],
        noise=None if isinstance(solver, AdaptiveSolver) else (_noise(solver, 1.0), _noise(solver, 4.0)),
        relaxing=_relaxing(solver),
        cold=orders[:-1],
    )


def solver_label(solver: ClosedFormSolver) -> str:
    """``newton order=2``: name and settings that differ from the defaults."""
    own, defaults = asdict(solver), asdict(type(solver)())  # type: ignore[call-overload]
    told = [f"{key}={value:g}" for key, value in own.items() if value != defaults[key] or key == "order"]
    return " ".join([solver.name, *told])


def to_markdown(facts: list[SolverFacts]) -> str:
    """The table of solvers in Markdown."""
    lines = [
        "# Solvers",
        "",
        "Made by `python -m hyca_calib solvers`. Order: exponent of the error of extrapolating exp at uneven",
        "times when all gaps are halved. Noise: sum of absolute weights, one and four gaps ahead at even",
        "spacing. Decay: error on an exponential decay, a + b exp(3 s) with s falling from 1 to 0.37 at uneven",
        "times, over that of reuse. Cold: order with one, two ... features only. Every formula is derived in",
        "the docstring of its file in `hyca_runtime/solvers/`.",
        "",
        "The weights of `dynamic_mode` depend on the features, so it has no noise of its own; its order is",
        "measured on exp(s) and exp(-2 s) in one group, which no single rate fits. Where no features are at",
        "hand (replay, runs adapted to another sampler) it is `newton order=1`.",
        "",
        "| solver | features | exact up to degree | order | noise at 1 | noise at 4 | decay | cold |",
        "|---|---:|---:|---:|---:|---:|---:|---|",
    ]
    for f in facts:
        cold = ", ".join(f"{order:.1f}" for order in f.cold) or "-"
        noise = " | ".join(f"{sum_:.2f}" for sum_ in f.noise) if f.noise else "- | -"
        measured = f"{f.order:.2f} | {noise} | {f.relaxing:.3f}"
        lines.append(f"| {f.label} | {f.depth} | {f.exact_degree} | {measured} | {cold} |")
    return "\n".join(lines) + "\n"


def _weights(solver: ClosedFormSolver, times: np.ndarray, target: float) -> np.ndarray:
    return solver.rows([Instant(-i, t) for i, t in enumerate(times)], Instant(1, target))[:, 0]


def _noise(solver: ClosedFormSolver, ahead: float) -> float:
    return float(np.abs(_weights(solver, np.arange(0.0, -solver.depth, -1.0), ahead)).sum())


def _forecast(solver: ClosedFormSolver, times: np.ndarray, target: float, features: np.ndarray) -> np.ndarray:
    """The forecast of one group from its `features` ``(len(times), channels)``."""
    if not isinstance(solver, AdaptiveSolver) or len(times) < solver.depth:
        return np.asarray(_weights(solver, times, target) @ features)
    differences = torch.from_numpy(features[:-1] - features[1:])
    learnt = solver.learn((differences @ differences.T)[..., None], times)
    return np.asarray(solver.adapted(learnt, times, target)[:, 0].numpy() @ features)


def _order(solver: ClosedFormSolver, count: int) -> float:
    rates = GROWTH if isinstance(solver, AdaptiveSolver) else GROWTH[:1]
    errors = []
    for scale in (2.0**-5, 2.0**-6):
        times, target = scale * UNEVEN[:count], scale * AHEAD
        found = _forecast(solver, times, target, np.exp(np.outer(times, rates)))
        errors.append(np.linalg.norm(found - np.exp(target * rates)))
    return float(np.log2(errors[0] / errors[1]))


def _relaxing(solver: ClosedFormSolver) -> float:
    times = UNEVEN[: solver.depth]
    start, size = np.array([3.0, -1.0]), np.array([0.5, 2.0])
    features = start + np.outer(np.exp(DECAY * times), size)
    true = start + np.exp(DECAY * AHEAD) * size
    error = np.linalg.norm(_forecast(solver, times, AHEAD, features) - true)
    return float(error / np.linalg.norm(features[0] - true))
