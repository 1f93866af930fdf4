"""A schedule that moves with surprises: worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pytest

from hyca_calib.search.step_caches.surprise import Surprise
from hyca_runtime.moment import Moment
from hyca_runtime.point import parse_point
from hyca_runtime.policies import PacedBySurprise
from hyca_runtime.schedule import Schedule

STEPS = 12


def computed(
    policy: PacedBySurprise, off: Mapping[int, Sequence[float]] | None = None, branches: Sequence[str] = ("",)
) -> list[int]:
    """The steps that are computed, if forecasts of those steps are so far off; elsewhere nothing is learnt."""
    schedule, state, found = Schedule.from_steps(STEPS, [0]), policy.begin(), list[int]()
    for step in range(STEPS):
        for branch in branches:
            moment = Moment(0, step, step - 1, STEPS, branch)
            action, state = policy.decide(state, moment, schedule)
            if action.computes and branch == branches[0]:
                found.append(step)
            assert action.computes == (found[-1] == step), "branches do the same"
            if action.computes and off and step in off:
                state = policy.learn(state, moment, {"feature": tuple(off[step])})
    return found


@pytest.mark.parametrize("steps", [[0], [0, 1, 2, 5, 9, 11], [0, 3, 6, 9], [0, 7], list(range(STEPS))])
@pytest.mark.parametrize("branches", [("",), ("cond", "uncond")])
def test_without_a_response_the_schedule_is_followed_whatever_happens(steps: list[int], branches: list[str]) -> None:
    policy = Surprise.of(parse_point("trunk"), Schedule.from_steps(STEPS, steps)).policy(1.0)
    assert computed(policy, branches=branches) == steps
    assert computed(policy, {step: [9.0] for step in steps}, branches) == steps


def test_a_threshold_of_nothing_computes_every_step() -> None:
    assert computed(PacedBySurprise(0.0, (0.0,) * STEPS)) == list(range(STEPS))


@pytest.mark.parametrize(
    ("off", "steps"),
    [
        ([math.e], [0, 1, 5, 8, 11]),  # the mood is 1/2, a step adds e^(1/2) / 4 = 0.412
        ([1.0], [0, 1, 5, 9]),
        ([1 / math.e], [0, 1, 5]),  # e^(-1/2) / 4 = 0.152, six steps make 0.91
        ([1 / math.e, math.e], [0, 1, 5, 8, 11]),  # the batch is as surprised as its most surprised sample
        ([math.exp(30)], [0, 1, *range(5, 12)]),  # counts as three spreads: e^(3/2) / 4 = 1.12
        ([math.inf], [0, 1, *range(5, 12)]),
    ],
)
def test_surprises_by_hand(off: list[float], steps: list[int]) -> None:
    pace = (0.0, 1.0, *[0.25] * (STEPS - 2))
    policy = PacedBySurprise(1.0, pace, response=1.0, level=(math.log(1 / 4),), power=1.0)
    assert computed(policy, {5: off}) == steps
    assert computed(policy, {1: off}) == [0, 1, 5, 9], "a forecast from one step is reuse, and says nothing"


def test_the_strongest_response_is_a_number() -> None:
    policy = PacedBySurprise(1.0, (0.25,) * STEPS, response=100.0, spread=1e-9)
    assert computed(policy, {step: [9.0] for step in range(STEPS)}) == [0, 4, *range(8, STEPS)]


def test_what_is_usual_grows_with_the_gap_and_changes_with_time() -> None:
    policy = PacedBySurprise(1.0, (0.25,) * STEPS, level=(0.5, -1.0, 2.0), power=1.5)
    assert policy.usual(1.0, 3.0) == pytest.approx(-1.0 + 1.5 * math.log(3))
    assert policy.usual(7.0, 1.0) == 2.0


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"threshold": -1.0}, "threshold must be 0 or more, got -1.0"),
        ({"response": math.nan}, "response must be 0 or more, got nan"),
        ({"pace": ()}, "pace must be 0 or more"),
        ({"pace": (0.1, -0.1)}, "pace must be 0 or more, got -0.1"),
        ({"level": ()}, "level must be of every step, or one for all, got none"),
        ({"spread": 0.0}, "spread must be above 0, got 0.0"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        PacedBySurprise(**{"threshold": 1.0, "pace": (0.25,), **settings})  # type: ignore[arg-type]
