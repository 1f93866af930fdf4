"""What every policy must keep. A new policy is a file in `hyca_runtime/policies/` and a line here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import pytest

from hyca_runtime.errors import HycaError
from hyca_runtime.moment import Moment
from hyca_runtime.policies import (
    CarefulEnd,
    ChangeSinceComputed,
    ChunkChange,
    Evidence,
    FilteredChange,
    HierarchicalChange,
    MagnitudeRatio,
    MixedGranularity,
    PacedBySurprise,
    Policy,
    PolicySpec,
    ProbedChange,
    RescaledChange,
    Scheduled,
    policies,
    policy_from_spec,
)
from hyca_runtime.schedule import Action, Schedule
from hyca_runtime.testing import NUM_STEPS, POLICY_CHECKS, check_policy, decisions_of

ALL_POLICIES = (
    Scheduled(),
    CarefulEnd(),
    CarefulEnd(steps=5),
    ProbedChange(0.1),
    ProbedChange(0.4, retained=0.0),
    ChangeSinceComputed(0.1),
    ChangeSinceComputed(0.1, warmup=0, consecutive=2),
    ChunkChange(0.5, warmup=2),
    ChunkChange(0.2, warmup=1, probe="latents", last=False),
    FilteredChange(0.1, (1.0, 0.7, 0.4, 0.1), (3,)),
    FilteredChange(0.3, [0.9] * 12, (1, 3), power=3.0, consecutive=None),  # type: ignore[arg-type]
    HierarchicalChange(0.15, 4),
    HierarchicalChange(0.15, 9, ratio=0.0, tokens=[64, 16]),  # type: ignore[arg-type]
    MagnitudeRatio(0.06, {"*": (1.0, 1.02, 0.99, 1.01), "uncond": [0.98] * 12}),
    PacedBySurprise(1.0, [0.3] * NUM_STEPS, response=0.5, level=[-1.0, 2.0], spread=0.2),  # type: ignore[arg-type]
    MixedGranularity(0.1, warmup=0),
    MixedGranularity(0.5, {"step": 2.0, "branch": 1.0, "block": 0.5}, lead="", initial=3, longest=9),
    RescaledChange(0.2, (3.0, -0.1, 0.05), (0.01, 0.2)),
)


@pytest.mark.parametrize("check", POLICY_CHECKS)
@pytest.mark.parametrize("policy", ALL_POLICIES, ids=repr)
def test_contract(policy: Policy, check: Callable[[Policy], None]) -> None:
    check(policy)


def test_every_registered_policy_is_here() -> None:
    own = [name for name in policies if policies[name].__module__.startswith("hyca_runtime")]
    assert {policy.name for policy in ALL_POLICIES} == set(own)


class Forgetful(Policy):
    """Keeps what it knows on itself, so runs disturb each other."""

    name: ClassVar[str] = "forgetful"

    def __init__(self) -> None:
        self.calls = 0

    def decide(self, state: Any, moment: Moment, schedule: Schedule, evidence: Evidence = None) -> tuple[Action, Any]:
        del moment, evidence
        self.calls += 1
        return schedule.palette[self.calls % 2 == 0], state


def test_the_contract_notices() -> None:
    with pytest.raises(AssertionError, match="beside another run"):
        check_policy(Forgetful())


def test_a_careful_end_computes_besides() -> None:
    plain = [action.computes for action in decisions_of(Scheduled())]
    careful = [action.computes for action in decisions_of(CarefulEnd(steps=3))]
    assert careful == plain[: NUM_STEPS - 3] + [True] * 3
    assert plain.count(True) == 4


def test_faults_are_told() -> None:
    with pytest.raises(HycaError, match=r'unknown policy .careful_ned.; did you mean "careful_end"'):
        policy_from_spec(PolicySpec(name="careful_ned"))
    with pytest.raises(ValueError, match="does not take"):
        policy_from_spec(PolicySpec(name="careful_end", configuration={"step": 1}))
    with pytest.raises(ValueError, match="steps must be a whole number, 1 or more, got 0"):
        policy_from_spec(PolicySpec(name="careful_end", configuration={"steps": 0}))


@pytest.mark.parametrize("nonsense", [[None], {"*": ["x"]}], ids=repr)
@pytest.mark.parametrize("policy", [policy for policy in ALL_POLICIES if policy.spec().configuration], ids=repr)
def test_settings_of_another_type_are_refused(policy: Policy, nonsense: object) -> None:
    settings = policy.spec().configuration
    for label in settings:
        with pytest.raises(ValueError, match=f"policy '{policy.name}': {label}.*, got "):
            policy_from_spec(PolicySpec(name=policy.name, configuration={**settings, label: nonsense}))


@pytest.mark.parametrize(
    ("name", "settings", "reason"),
    [
        ("paced_by_surprise", {"threshold": 10**400, "pace": [1.0]}, "threshold: Input should be a finite number"),
        ("paced_by_surprise", {"threshold": 1.0, "pace": [1.0], "level": ["a"]}, r"level\.0: .* got 'a'"),
        ("paced_by_surprise", {"threshold": 1.0, "pace": [1.0], "response": 1e6}, "at most 100, got 1000000"),
        ("magnitude_ratio", {"threshold": 1.0, "ratios": [1.0]}, "ratios: Input should be an object"),
        ("magnitude_ratio", {"threshold": 1.0, "ratios": {"*": [1.0, -1.0]}}, "ratios must be above 0"),
        ("mixed_granularity", {"threshold": True}, "threshold: .*, got 'True'"),
    ],
)
def test_settings_that_would_fail_in_a_run_are_refused(name: str, settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        policy_from_spec(PolicySpec(name=name, configuration=settings))
