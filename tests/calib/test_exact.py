"""The schedule search against brute force."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from hyca_calib.search.exact import best_schedules, gap_table
from hyca_calib.search.replay import schedule_cost
from hyca_calib.search.taps import fit_solver
from hyca_runtime.schedule import Schedule
from studies.paper.planning.baselines import table_cost


def smooth_gram(steps: int, groups: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Gram matrices of smooth random trajectories, and their times."""
    rng = np.random.default_rng(seed)
    times = np.linspace(1, 1 / steps, steps)
    waves = np.stack([np.cos(k * np.pi * times) for k in range(6)])
    features = rng.normal(size=(groups, 50, 6)) * 0.5 ** np.arange(6) @ waves
    return features.transpose(0, 2, 1) @ features, times


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 6])
@pytest.mark.parametrize("start", [1, 2, 3])
def test_dynamic_programming_equals_brute_force(depth: int, count: int, start: int) -> None:
    steps = 10
    gram, times = smooth_gram(steps, 2, seed=depth)
    weights = np.linspace(1, 2, steps)
    table = gap_table(gram, gram, times, weights, depth, 1e-3, max_gap=steps)
    start = min(start, count)
    found = best_schedules(table, range(count, count + 1), start)[count]
    costs = {}
    for rest in itertools.combinations(range(1, steps), count - 1):
        if set(range(start)) <= {0, *rest}:
            schedule = Schedule.from_steps(steps, (0, *rest))
            solvers = [fit_solver(g[None], schedule, times, depth, 1e-3) for g in gram]
            costs[schedule.computed_steps] = schedule_cost(gram, schedule, times, weights, solvers).sum()
    best = min(costs, key=lambda steps: costs[steps])
    assert costs[found.computed_steps] == pytest.approx(costs[best], rel=1e-9)


def test_table_cost_equals_replay() -> None:
    steps = 14
    gram, times = smooth_gram(steps, 3, seed=0)
    weights = np.ones(steps)
    table = gap_table(gram, gram, times, weights, 3, 1e-3, max_gap=6)
    rng = np.random.default_rng(0)
    for _ in range(30):
        computed = np.sort(np.r_[0, 1 + rng.choice(steps - 1, 5, replace=False)])
        schedule = Schedule.from_steps(steps, computed.tolist())
        solvers = [fit_solver(g[None], schedule, times, 3, 1e-3) for g in gram]
        replayed = schedule_cost(gram, schedule, times, weights, solvers).sum()
        (found,) = table_cost(table, computed[None])
        if np.diff(np.r_[computed, steps]).max() > 6:
            assert found == np.inf
        else:
            assert found == pytest.approx(replayed, rel=1e-9)


def test_the_optimum_is_no_worse_than_ten_thousand_others() -> None:
    steps = 50
    gram, times = smooth_gram(steps, 16, seed=0)
    table = gap_table(gram, gram, times, np.ones(steps), 3, 1e-3, max_gap=12)
    rng = np.random.default_rng(0)
    computed = np.sort([np.r_[0, 1 + rng.choice(steps - 1, 9, replace=False)] for _ in range(10_000)], axis=1)
    costs = table_cost(table, computed)
    best = best_schedules(table, range(10, 11))[10]
    assert table_cost(table, np.array([best.computed_steps]))[0] <= costs.min()


def test_impossible_counts_are_left_out() -> None:
    gram, times = smooth_gram(20, 1, seed=0)
    table = gap_table(gram, gram, times, np.ones(20), 3, 1e-3, max_gap=4)
    assert set(best_schedules(table, range(1, 8))) == {5, 6, 7}
