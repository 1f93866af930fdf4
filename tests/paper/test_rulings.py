"""Verdicts that the data can miss: three answers, corrections, and prompts that repeat."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from studies.paper import points, refining, searching
from studies.paper.intervals import (
    above,
    all_of,
    any_of,
    apart,
    below,
    decide,
    difference,
    over,
    shared_level,
    student,
    swing,
)
from studies.paper.searching import rollouts_saved

COMMITTED = Path(__file__).parents[2] / "studies" / "paper" / "results" / "numbers.json"


def test_an_interval_decides_or_leaves_open() -> None:
    assert [above(found, 1.0) for found in ((2, 1.5, 3), (0, -1, 0.5), (1, 0.5, 2))] == [True, False, None]
    assert [below(found, 1.0) for found in ((2, 1.5, 3), (0, -1, 0.5), (1, 0.5, 2))] == [False, True, None]
    assert above((1, 1, 1), 1.0) is False
    assert below((1, 1, 1), 1.0) is False


def test_failure_to_reject_is_no_verdict() -> None:
    assert decide([True, True]) == "holds"
    assert decide([True, False]) == decide([True, None]) == "partly"
    assert decide([False, None]) == decide([False, False]) == "fails"
    assert decide([None, None]) == decide([]) == "not decided"
    assert (all_of([True, None]), all_of([None, False]), all_of([True, True])) == (None, False, True)
    assert (any_of([None, False]), any_of([False, True]), any_of([False, False])) == (None, True, False)


def test_the_best_of_several_equals_seldom_wins() -> None:
    """Of four ways that gain nothing, uncorrected one would often seem to."""
    rng, tries = np.random.default_rng(0), 400

    def wins(level: float) -> float:
        found = [
            any_of([above(student(rng.normal(size=6).tolist(), level)) for _ in range(4)]) is True for _ in range(tries)
        ]
        return float(np.mean(found))

    assert wins(shared_level(4)) < 0.045
    assert wins(0.95) > 0.07


def test_samples_of_one_prompt_say_less_than_as_many_prompts() -> None:
    rng = np.random.default_rng(0)
    prompts = tuple(np.repeat(np.arange(6), 4).tolist())
    of_prompt = np.repeat(rng.normal(size=6), 4)
    one, other = np.exp(1 + of_prompt + 0.01 * rng.normal(size=24)), np.exp(np.ones(24))

    def width(found: tuple[float, float, float]) -> float:
        return found[2] - found[1]

    assert width(over(one, other, 0, prompts)) > 1.5 * width(over(one, other, 0))
    plain, clustered = difference(one.tolist(), other.tolist()), difference(one.tolist(), other.tolist(), prompts)
    assert width(clustered) > 1.5 * width(plain)


def test_swing_is_between_its_bounds() -> None:
    rng = np.random.default_rng(0)
    costs = np.array([1.0, 1.2, 1.1])[:, None] * np.exp(0.3 * rng.normal(size=16)) + 0.01 * rng.normal(size=(3, 16))
    found, least, most = swing(costs, 0)
    assert found == pytest.approx(1.2, abs=0.02)
    assert 1.1 < least < found < most < 1.3
    assert swing(np.ones((2, 8)), 0) == pytest.approx((1, 1, 1))


def test_means_of_other_samples() -> None:
    rng = np.random.default_rng(0)
    one, other = rng.normal(3, 1, 40), rng.normal(0, 1, 30)
    mean, low, high = apart(one.tolist(), other.tolist())
    assert mean == pytest.approx(one.mean() - other.mean())
    half = 2 * np.sqrt(one.var() / 40 + other.var() / 30)
    assert (high - low) / 2 == pytest.approx(half, rel=0.15)


@pytest.mark.parametrize("shared", [0.0, 2.0])
def test_rollouts_saved_are_those_of_the_shared_variance(shared: float) -> None:
    """Errors are one part of the sample and one of its own: the variance ratio is 1 + the shared part."""
    rng = np.random.default_rng(1)
    table = np.sqrt(shared) * rng.normal(size=300) + rng.normal(size=(12, 300))
    mean, low, high = rollouts_saved(table)
    assert low < 1 + shared < high
    assert mean == pytest.approx(1 + shared, rel=0.2)


class TestCommittedRules:
    """Each rule with other numbers: it can be met, missed, and left open."""

    @staticmethod
    def numbers(chapter: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(COMMITTED.read_text())["chapters"][chapter]["numbers"]
        return found

    def moved(self, by: float, spread: float) -> dict[str, Any]:
        """The channel rows of the refinement, so far above all others."""
        numbers = self.numbers("demo/refinement")
        before = numbers["before"]["latent_db"]
        noise = spread * np.random.default_rng(0).normal(size=len(before))
        for part in ("parameters", "losses", "prompts", "joint", "on policy"):
            for row in numbers[part].values():
                row["latent_db"] = list(before)
        for part, name in (
            ("parameters", "channel"),
            ("losses", "final latent, log"),
            ("joint", "race"),
            ("prompts", "48"),
        ):
            numbers[part][name]["latent_db"] = (np.array(before) + by + noise).tolist()
        for row in numbers["reach_db"].values():
            row["mixing of all channels"] = 0.46 - by
        return numbers

    def test_refinement(self) -> None:
        far = [verdict for verdict, _ in refining.rulings(self.moved(1.0, 0.1)).values()]
        assert far == ["holds", "holds", "holds", "fails", "holds", "holds"]
        near = [verdict for verdict, _ in refining.rulings(self.moved(-1.0, 0.1)).values()]
        assert near == ["fails", "fails", "fails", "holds", "fails", "fails"]
        even = [verdict for verdict, _ in refining.rulings(self.moved(0.2, 3.0)).values()][:5]
        assert even == ["not decided"] * 5

    @pytest.mark.parametrize(
        ("ahead", "spread", "verdict"), [(1, 0.1, "holds"), (-1, 0.1, "fails"), (0.2, 3, "not decided")]
    )
    def test_points(self, ahead: float, spread: float, verdict: str) -> None:
        numbers = self.numbers("demo/points")
        base = np.array(numbers["points"]["trunk"]["3x"]["test_db"])
        noise = spread * np.random.default_rng(0).normal(size=len(base))
        numbers["points"]["every block"]["3x"]["test_db"] = (base + ahead + noise).tolist()
        found = points.rulings(numbers)
        assert found["At 3x, forecasting every block beats forecasting the trunk (by over 0.2 dB)."][0] == verdict

    def test_a_pick_is_refuted_by_one_better_point(self) -> None:
        numbers = self.numbers("demo/points")
        known = [name for name, rows in numbers["points"].items() if "3x" in rows]
        picked = max(known, key=lambda name: numbers["points"][name]["3x"]["confirmed_db"])
        base = np.array(numbers["points"][picked]["3x"]["test_db"])
        others = [name for name in known if name != picked]
        for name in others:
            numbers["points"][name]["3x"]["test_db"] = (base - 1).tolist()
        claim = next(iter(points.rulings(numbers)))
        assert points.rulings(numbers)[claim][0] == "holds"
        numbers["points"][others[0]]["3x"]["test_db"] = (base + 1).tolist()
        assert points.rulings(numbers)[claim][0] == "fails"

    def test_ways_of_searching(self) -> None:
        numbers = self.numbers("demo/closed-loop")
        model = "A model of the objective"

        def of(start: str) -> str:
            found = searching.rulings(numbers)
            return next(verdict for text, (verdict, _) in found.items() if text.startswith(start))

        climbed = numbers["gains_db"]["hill climbing"]
        for ahead, verdict in ((1.0, "holds"), (-1.0, "fails")):
            for name in ("TPE", "CMA-ES", "NSGA-II", "surrogate"):
                numbers["gains_db"][name] = [gain + ahead + 0.01 * i for i, gain in enumerate(climbed)]
            assert of(model) == verdict
        test = {"offline optimum": [60.0, 61, 62], "hill climbing/0": [61.0, 62.1, 63]}
        numbers |= {"climbed": test, "test_prompts": [0, 1, 2]}
        assert of("Rollouts find") == "holds"
        test["hill climbing/0"] = [60.0, 61.05, 62]
        assert of("Rollouts find") == "fails"
