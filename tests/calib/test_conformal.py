"""What is said of new prompts holds as often as it says, whatever their agreements are like."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import beta, binom, kstest

from hyca_calib.quality.conformal import bound_rank, fewest_prompts, new_prompt_bound, worst_of_prompts
from hyca_calib.quality.coverage import coverage, coverage_of_halves
from hyca_runtime.errors import WorkloadError

REPEATS, HELD_OUT = 4000, 200


def heavy_tailed(*shape: int) -> np.ndarray:
    """Agreements in dB of which some are very low: no mean, no variance."""
    return 40 - np.abs(np.random.default_rng(0).standard_cauchy(shape))


def bound_of(agreements: np.ndarray, level: float) -> float:
    found = new_prompt_bound(agreements.tolist(), range(len(agreements)), level)
    assert found is not None
    return found


@pytest.mark.parametrize(("prompts", "level"), [(9, 0.9), (16, 0.9), (48, 0.9), (30, 0.8), (19, 0.95)])
def test_it_covers_as_often_as_it_says(prompts: int, level: float) -> None:
    drawn = heavy_tailed(REPEATS, prompts + HELD_OUT)
    bounds = np.array([bound_of(row[:prompts], level) for row in drawn])
    rank = bound_rank(prompts, level)
    expected = (prompts + 1 - rank) / (prompts + 1)
    assert expected >= level
    covered = drawn[:, prompts:] >= bounds[:, None]
    low, high = binom(REPEATS, expected).interval(0.99)
    assert low <= covered[:, 0].sum() <= high, "one new prompt for each bound"
    within = covered.sum(1)
    found = coverage(drawn[:, :prompts], drawn[:, prompts:], level)
    assert found.expected == pytest.approx(expected)
    assert found.share == pytest.approx(within.mean() / HELD_OUT)
    inside = (within >= round(found.low * HELD_OUT)) & (within <= round(found.high * HELD_OUT))
    assert found.within == inside.mean() >= binom(REPEATS, 0.95).ppf(0.005) / REPEATS
    conditional = 2 / np.pi * np.arctan(40 - bounds)
    assert kstest(conditional, beta(prompts + 1 - rank, rank).cdf).pvalue > 0.01, "the bound's own share of prompts"


def test_random_halves_cover_what_is_expected() -> None:
    found = coverage_of_halves(heavy_tailed(2 * HELD_OUT), 0.9)
    assert (found.calibrating, found.held_out) == (HELD_OUT, HELD_OUT)
    assert found.share == pytest.approx(found.expected, abs=0.005)
    assert found.low < 0.9 < found.high
    assert found.within >= 0.94
    assert str(found).startswith("bounds of 200 prompts hold for 0.9")


def test_new_prompts_of_another_kind_are_seen() -> None:
    agreements = heavy_tailed(2 * HELD_OUT)
    alike, other = (coverage(agreements[:HELD_OUT], agreements[HELD_OUT:] - worse) for worse in (0.0, 3.0))
    assert alike.within == 1
    assert other.within == 0
    assert other.share < other.low


def test_ties_are_covered() -> None:
    agreements = np.random.default_rng(0).integers(30, 33, (400, 20)).astype(float)
    covered = [row[0] >= bound_of(row[1:], 0.9) for row in agreements]
    assert np.mean(covered) >= 0.9
    assert bound_of(np.full(9, 150.0), 0.9) == 150


def test_few_prompts_bound_nothing() -> None:
    for level, fewest in ((0.5, 1), (0.8, 4), (0.9, 9), (0.95, 19), (0.99, 99), (0.999, 999)):
        assert fewest_prompts(level) == fewest
        assert (bound_rank(fewest - 1, level), bound_rank(fewest, level)) == (0, 1), "exact where floats are not"
    assert new_prompt_bound([40.0], [0]) is None
    assert new_prompt_bound([40.0] * 50, [0] * 50) is None
    assert new_prompt_bound([40.0], [0], 0.5) == 40
    with pytest.raises(
        WorkloadError, match=r"it needs at least 9 prompts for the bound at 0.9 and 1 beside them, got 8 and 9"
    ):
        coverage_of_halves(heavy_tailed(17))


def test_a_prompt_counts_by_its_worst_sample() -> None:
    assert worst_of_prompts([3.0, 1.0, 2.0, 5.0], [7, 0, 7, 7]).tolist() == [1, 2]
    agreements, prompts = heavy_tailed(60), np.arange(60) % 20
    worst = agreements.reshape(3, 20).min(0)
    assert new_prompt_bound(agreements.tolist(), prompts.tolist()) == np.sort(worst)[bound_rank(20, 0.9) - 1]
    assert new_prompt_bound([math.nan, *range(40, 50)], range(11)) is None, "the worst of eleven is not a number"
    assert new_prompt_bound([math.nan, *range(40, 59)], range(20)) == 40
