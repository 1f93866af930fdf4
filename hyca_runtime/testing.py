"""What every closed-form solver and every policy must keep, for whoever writes one.

With pytest::

    import pytest
    from hyca_runtime.testing import SOLVER_CHECKS

    @pytest.mark.parametrize("check", SOLVER_CHECKS)
    def test_my_solver(check):
        check(MySolver())

or all at once, ``check_solver(MySolver())``; for policies there are `POLICY_CHECKS` and ``check_policy(MyPolicy())``.
A check that fails raises AssertionError and says what was got.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hyca_runtime.group import SolverSpec
from hyca_runtime.moment import Moment
from hyca_runtime.policies import Evidence, LearningPolicy, Policy, PolicySpec, ProbingPolicy, policy_from_spec
from hyca_runtime.schedule import FEATURE, Action, Schedule
from hyca_runtime.solvers import ClosedFormSolver, Instant, solver_from_spec

__all__ = [
    "POLICY_CHECKS",
    "SOLVER_CHECKS",
    "TARGET",
    "UNEVEN",
    "check_cold_start",
    "check_constants",
    "check_depth",
    "check_exact_degree",
    "check_first_call",
    "check_measured_order",
    "check_newest_step",
    "check_palette",
    "check_policy",
    "check_policy_spec",
    "check_solver",
    "check_spec",
    "check_state_is_passed",
    "check_unit_of_time",
    "decisions_of",
    "weights_of",
]

Array = NDArray[np.float64]

UNEVEN: Array = np.array([0.55, 0.61, 0.8, 0.84, 1.0])
"""Times of five computed steps, newest first: those of a sampler fall."""
TARGET = 0.37
"""The time that is forecast."""


def weights_of(solver: ClosedFormSolver, times: Array = UNEVEN, target: float = TARGET) -> Array:
    """The row ``(tap,)`` of a solver over computed steps at `times`, newest first."""
    past = [Instant(-i, t) for i, t in enumerate(times)]
    return np.asarray(solver.rows(past, Instant(1, target))[:, 0])


def check_constants(solver: ClosedFormSolver) -> None:
    """A feature that does not change is forecast exactly."""
    _expect_close("sum of the weights", weights_of(solver).sum(), 1.0, 1e-12)


def check_newest_step(solver: ClosedFormSolver) -> None:
    """The forecast of the newest step is that step: a run with more steps than its plan stays there for a while."""
    row = weights_of(solver, target=float(UNEVEN[0]))
    _expect_close("weights at the newest step's own time", row, np.eye(len(row))[0], 0.0)


def check_depth(solver: ClosedFormSolver) -> None:
    """A solver uses as many steps as its `depth` says."""
    _expect(len(weights_of(solver)) == solver.depth, f"{len(weights_of(solver))} weights, its depth is {solver.depth}")


def check_exact_degree(solver: ClosedFormSolver) -> None:
    """Polynomials up to `exact_degree` are forecast exactly, the next one is not."""
    times = UNEVEN[: solver.depth]
    for degree in range(solver.exact_degree + 1):
        _expect_close(f"forecast of t^{degree}", weights_of(solver) @ times**degree, TARGET**degree, 1e-10)
    degree = solver.exact_degree + 1
    error = abs(weights_of(solver) @ times**degree - TARGET**degree)
    _expect(bool(error > 1e-6), f"t^{degree} is forecast exactly as well; `exact_degree` is {solver.exact_degree}")


def check_measured_order(solver: ClosedFormSolver) -> None:
    """Halving all gaps divides the error of the exponential by 2 to the power ``exact_degree + 1``."""
    errors = []
    for h in (2.0**-5, 2.0**-6):
        times = UNEVEN * h
        forecast = weights_of(solver, times, TARGET * h) @ np.exp(times[: solver.depth])
        errors.append(abs(forecast - np.exp(TARGET * h)))
    _expect_close("measured order", np.log2(errors[0] / errors[1]), solver.exact_degree + 1.0, 0.25)


def check_unit_of_time(solver: ClosedFormSolver) -> None:
    """Unit and origin of time do not matter."""
    row = weights_of(solver)
    _expect_close("weights on another time axis", weights_of(solver, 1000 * UNEVEN - 40, 1000 * TARGET - 40), row, 1e-8)


def check_cold_start(solver: ClosedFormSolver) -> None:
    """With fewer computed steps than its depth a solver uses those there are; one is held."""
    for count in range(1, solver.depth + 1):
        row = weights_of(solver, UNEVEN[:count])
        _expect(len(row) == count, f"{len(row)} weights over {count} computed steps")
        _expect_close(f"sum of the weights over {count} computed steps", row.sum(), 1.0, 1e-6)
    _expect_close("weights over one computed step", weights_of(solver, UNEVEN[:1]), np.ones(1), 0.0)


def check_spec(solver: ClosedFormSolver) -> None:
    """A plan can name the solver: it is registered, and made again from the JSON of its `spec` it is equal."""
    again = solver_from_spec(SolverSpec.model_validate_json(solver.spec().model_dump_json()))
    _expect(again == solver, f"made again from its spec it is {again}")


SOLVER_CHECKS = (
    check_constants,
    check_newest_step,
    check_depth,
    check_exact_degree,
    check_measured_order,
    check_unit_of_time,
    check_cold_start,
    check_spec,
)


def check_solver(solver: ClosedFormSolver) -> None:
    """Run all of `SOLVER_CHECKS`; raises AssertionError at the first that fails."""
    for check in SOLVER_CHECKS:
        check(solver)


NUM_STEPS = 12
SCHEDULE = Schedule.from_steps(NUM_STEPS, (0, 1, 4, 8))
"""What policies are tried on."""


def decisions_of(policy: Policy, positions: Sequence[float] = range(NUM_STEPS), branch: str = "") -> list[Action]:
    """What a policy decides at each call of one run, at these steps of a plan, perhaps between two."""
    state, found, previous = policy.begin(), [], -1.0
    for position in positions:
        moment = Moment(0, position, previous, NUM_STEPS, branch)
        action, state = _asked(policy, state, moment)
        found.append(action)
        previous = position
    return found


def _asked(policy: Policy, state: Any, moment: Moment) -> tuple[Action, Any]:
    """What a policy decides, and its state after the call, of which one that learns has been told."""
    before = copy.deepcopy(state)
    action, after = policy.decide(state, moment, SCHEDULE, _evidence(policy, moment.position))
    if isinstance(policy, LearningPolicy) and action.computes and policy.wants(after, moment):
        kept, told = copy.deepcopy(after), {FEATURE: (0.3 / (1 + moment.position), 0.1)} if moment.position else {}
        learnt = policy.learn(after, moment, told)
        _expect(after == kept, f"it changed the state that it was given from {kept} to {after}")
        after = learnt
    _expect(state == before, f"it changed the state that it was given from {before} to {state}")
    return action, after


def _evidence(policy: Policy, position: float) -> Evidence:
    """What a probing policy measures on two samples that change ever more slowly; None for others."""
    if position <= 0 or not isinstance(policy, ProbingPolicy):
        return None
    before = torch.ones(2, 3, 4)
    change = torch.tensor([0.3, 0.2]).reshape(2, 1, 1) / (1 + position)
    numbers = policy.measure(policy.look(before + change, change, position), policy.look(before, before, position - 1))
    _expect(numbers.shape == (2,), f"of two samples it measures a tensor of shape {tuple(numbers.shape)}")
    return tuple(numbers.tolist())


def check_first_call(policy: Policy) -> None:
    """The first call of a run computes: there is nothing to forecast from."""
    _expect(decisions_of(policy)[0].computes, f"the first call of a run does {decisions_of(policy)[0]}")


def check_palette(policy: Policy) -> None:
    """Every decision is an action of the plan's palette, also for a sampler with twice the steps."""
    for positions in (range(NUM_STEPS), [step / 2 for step in range(2 * NUM_STEPS - 1)]):
        for action in decisions_of(policy, positions):
            _expect(action in SCHEDULE.palette, f"{action} is not in the palette {SCHEDULE.palette}")


def check_state_is_passed(policy: Policy) -> None:
    """What a policy remembers is in the state that it gives back: runs side by side do not see each other."""
    alone = decisions_of(policy)
    states, found = [policy.begin(), policy.begin()], list[Action]()
    for step in range(NUM_STEPS):
        for i, state in enumerate(states):
            action, states[i] = _asked(policy, state, Moment(0, step, step - 1, NUM_STEPS))
            found += [action] if i else []
    _expect(found == alone, f"beside another run it decides {found}, alone {alone}")
    _expect(policy.begin() is not None, "its state before the first call is None")


def check_policy_spec(policy: Policy) -> None:
    """A plan can name the policy: it is registered, and made again from the JSON of its `spec` it is equal."""
    again = policy_from_spec(PolicySpec.model_validate_json(policy.spec().model_dump_json()))
    _expect(again == policy, f"made again from its spec it is {again}")


POLICY_CHECKS = (check_first_call, check_palette, check_state_is_passed, check_policy_spec)


def check_policy(policy: Policy) -> None:
    """Run all of `POLICY_CHECKS`; raises AssertionError at the first that fails."""
    for check in POLICY_CHECKS:
        check(policy)


def _expect(kept: bool, got: str) -> None:
    if not kept:
        raise AssertionError(got)


def _expect_close(what: str, got: Array | float, expected: Array | float, tolerance: float) -> None:
    """`tolerance` is absolute, and relative to what was expected."""
    close = np.allclose(got, expected, rtol=tolerance, atol=tolerance)
    _expect(close, f"{what}: got {got}, expected {expected} within {tolerance:g}")
