"""Every stage of a search stops at its limit, whatever the number of steps; the clock goes on when work is done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from optuna.trial import TrialState

from hyca_calib.costs.budget import Budget
from hyca_calib.search import exact, tune
from hyca_calib.search.candidate import Candidate
from hyca_calib.search.damping_sweep import POWERS, STARTS, sweep_damping
from hyca_calib.search.options import RolloutLimits, Tuning
from hyca_calib.search.problem import Problem
from hyca_calib.search.rollout_search import KICKS, search_by_rollouts
from hyca_calib.search.settings import Settings
from hyca_calib.search.shared_rollouts import SharedRollouts
from hyca_calib.search.stopwatch import Pulse, no_pulse
from hyca_calib.search.storage import open_study
from hyca_calib.trace.store import Trace
from hyca_runtime.schedule import Schedule

BUDGET = Budget.parse("3x")
SETTINGS = Settings(groups=3)


class Clock:
    """Seconds, which go on by hand."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("hyca_calib.search.stopwatch.monotonic", made)
    return made


@pytest.fixture
def problem(recorded: Trace) -> Problem:
    return Problem(recorded, damping=tuple(np.linspace(0.2, 1.0, recorded.num_steps)))


@pytest.fixture
def slow(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Each piece of a schedule search takes a second; says how many pieces each search had."""
    pieces: list[int] = []
    inner: Any = exact.gap_table

    def gap_table(*args: Any) -> Any:
        *rest, pulse = args
        pieces.append(0)

        def worked() -> None:
            pieces[-1] += 1
            clock.now += 1
            pulse()

        return inner(*rest, worked)

    monkeypatch.setattr("hyca_calib.search.schedules.gap_table", gap_table)
    return pieces


def states(journal: Path, problem: Problem) -> list[TrialState]:
    name = f"tune {problem.identity} {BUDGET.text} groups any channel seed 0"
    return [trial.state for trial in open_study(journal, name).trials]


def test_tuning_stops_within_a_trial(problem: Problem, slow: list[int], tmp_path: Path) -> None:
    tuning, shares = Tuning(trials=9, timeout=100.0), list[float]()
    journal = tmp_path / "journal.log"

    def run() -> list[Candidate]:
        return tune.tune(problem, (BUDGET,), tuning, journal, 0, on_share=shares.append)[BUDGET]

    found = run()
    assert sum(slow) == 100
    assert slow[-1] < slow[0]
    assert shares[-1] == 1.0
    assert len(shares) >= 100, "progress is shown within a trial"
    assert states(journal, problem) == [TrialState.COMPLETE] * (len(slow) - 1) + [TrialState.FAIL]
    slow.clear()
    assert run()[0].cost <= found[0].cost
    assert len(states(journal, problem)) > 2, "the trial that was stopped is made again"


def test_the_first_trial_is_finished_whatever_the_time(problem: Problem, slow: list[int], tmp_path: Path) -> None:
    for timeout in (0.0, 1.0):
        found = tune.tune(problem, (BUDGET,), Tuning(9, timeout), tmp_path / f"{timeout}.log", 0)[BUDGET]
        assert len(found) == 1
    assert len(slow) == 2


class Rollouts:
    """Of five seconds each."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self.clock, self.count = clock, 0
        self.shared = SharedRollouts(path, "rollouts", self.rollout)

    def rollout(self, candidate: Candidate, beat: Sequence[float]) -> Sequence[float]:
        self.clock.now += 5
        self.count += 1
        return [20.0 + self.count]

    def search(self, problem: Problem, seconds: float) -> list[float]:
        """The shares that were told."""
        shares: list[float] = []
        offline = [
            Candidate(problem, SETTINGS, Schedule.from_steps(12, (0, 1, 2, last))).knowing(cost=1.0) for last in (3, 4)
        ]

        def sweep(pulse: Pulse) -> Any:
            return sweep_damping(offline[0], BUDGET, pulse)

        limits = RolloutLimits(minutes=seconds / 60)
        search_by_rollouts(offline, limits, self.shared, 0, lambda share, _: shares.append(share), sweep)
        return shares


@pytest.fixture
def rollouts(tmp_path: Path, clock: Clock) -> Rollouts:
    return Rollouts(tmp_path / "rollouts.log", clock)


def test_no_schedule_is_searched_once_the_time_is_spent(problem: Problem, slow: list[int], rollouts: Rollouts) -> None:
    rollouts.search(problem, seconds=3)
    assert rollouts.count == 2, "the finalists"
    assert slow == []


def test_the_sweep_of_dampings_stops_with_the_stage(
    problem: Problem, slow: list[int], rollouts: Rollouts, clock: Clock
) -> None:
    shares = rollouts.search(problem, seconds=93)  # 11 rollouts come before the sweep
    assert rollouts.count == 11
    assert len(slow) == 1
    assert clock.now == 93
    assert shares == sorted(shares)
    assert len(shares) >= 11 + slow[0], "progress is shown within the search of a schedule"


def test_the_sweep_makes_every_schedule_when_it_is_asked_for(problem: Problem, slow: list[int]) -> None:
    first = Candidate(problem, SETTINGS, Schedule.from_steps(12, (0, 1, 2, 3)))
    found = sweep_damping(first, BUDGET)
    assert next(found).schedule != first.schedule
    assert len(slow) == 1
    assert all(candidate.problem is problem for candidate in found)
    assert len(slow) == len(POWERS) * len(STARTS)


def test_moves_of_a_long_run_are_made_when_they_are_tried(
    rollouts: Rollouts, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[int] = []
    inner = Schedule.from_steps

    def from_steps(num_steps: int, computed: Any) -> Schedule:
        made.append(num_steps)
        return inner(num_steps, computed)

    class OfOne:
        trace = SimpleNamespace(attributes=SimpleNamespace(first_computed=1))

    start = Candidate(OfOne, Settings(taps="group"), Schedule.every(1000, 5)).knowing(groups=[])  # type: ignore[arg-type]
    monkeypatch.setattr(Schedule, "from_steps", from_steps)
    limits = RolloutLimits(minutes=60, rollouts=12)
    search_by_rollouts([start], limits, rollouts.shared, 0)
    assert rollouts.count == 12
    assert len(made) <= 12 * (KICKS + 2)


class TestBoundedWork:
    """Of one search of a schedule."""

    def pieces(self, steps: int, count: int, groups: int) -> int:
        """How often the search pauses, and that it finds what it should."""
        paused: list[None] = []
        gram = np.exp(-np.abs(np.subtract.outer(np.arange(steps), np.arange(steps))) / steps)[None].repeat(groups, 0)
        widest = -(-(steps - 1) // count) + 1
        depth, gap = exact.affordable(steps, groups, 3, widest, 2 * widest)
        table = exact.gap_table(
            gram, gram, np.linspace(1, 0, steps), np.ones(steps), depth, 1e-3, gap, lambda: paused.append(None)
        )
        found = exact.best_schedules(table, range(count, count + 1), 1, lambda: paused.append(None))
        assert len(found[count].computed_steps) == count
        return len(paused)

    def test_usual_runs_are_searched_in_full(self) -> None:
        for steps, count in ((50, 4), (50, 16), (100, 10), (200, 100)):
            narrow = -(-steps // count) + 1
            assert exact.affordable(steps, 32, 3, narrow, 2 * narrow) == (3, 2 * narrow)

    def test_long_runs_are_searched_with_shorter_gaps_and_histories(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(exact, "MOST_CELLS", 1 << 16)
        assert exact.affordable(1000, 16, 3, 11, 22) == (2, 11)
        assert exact.affordable(300, 2, 3, 4, 8) == (3, 4)
        assert exact.affordable(300, 2, 3, 7, 14) == (2, 10)
        assert self.pieces(steps=120, count=10, groups=2) < 120

    def test_what_a_thousand_steps_take(self) -> None:
        for count in (20, 100, 200, 500):
            narrow = -(-1000 // count) + 1
            depth, gap = exact.affordable(1000, 32, 3, narrow, 2 * narrow)
            assert 32 * exact._cells(1000, gap, depth) <= exact.MOST_CELLS or (depth, gap) == (2, narrow)
            assert gap >= narrow

    def test_a_solved_schedule_has_the_count_asked_for(self, problem: Problem, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(exact, "MOST_CELLS", 1)
        (found,) = tune.solve(problem, SETTINGS, [Budget.parse("4 steps")], 0, no_pulse)
        assert len(found.schedule.computed_steps) == 4
        assert found.settings == replace(SETTINGS), "taps still read as much as was asked for"
