"""A search that starts from an earlier plan: what is taken over on the same steps and on others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import tiny

from hyca_calib.costs.budget import Budget
from hyca_calib.pipelines.workload import Workload
from hyca_calib.search.assemble import build_section, provenance
from hyca_calib.search.candidate import Candidate
from hyca_calib.search.held import Held, held
from hyca_calib.search.options import RolloutLimits
from hyca_calib.search.problem import Problem
from hyca_calib.search.rollout_search import search_by_rollouts
from hyca_calib.search.rows import plan_taps, rows_of, with_taps
from hyca_calib.search.settings import Settings
from hyca_calib.search.shared_rollouts import SharedRollouts
from hyca_calib.search.start import kept_candidate, started, with_start
from hyca_calib.search.tune import solve
from hyca_calib.trace.run import trace
from hyca_calib.trace.store import Trace
from hyca_runtime.plan import Plan
from hyca_runtime.plan_facts import Certificate
from hyca_runtime.point import CachePoint

BUDGET = Budget.parse("4 steps")
SETTINGS = Settings(groups=2, ridge=1e-4)


@pytest.fixture(scope="module")
def problem(recorded: Trace) -> Problem:
    return Problem(recorded, damping=tuple(np.linspace(0.5, 1, recorded.num_steps)))


@pytest.fixture(scope="module")
def earlier(problem: Problem) -> Plan:
    """A plan whose rows are no longer those that were fitted, as after refinement."""
    (candidate,) = solve(problem, SETTINGS, [BUDGET], 0)
    section = build_section(candidate)
    refined = with_taps(section, plan_taps(section) * 1.01)
    return Plan(name="earlier", sections=(refined,), provenance=provenance(candidate))


@pytest.fixture(scope="module")
def longer(workload: Workload, tmp_path_factory: pytest.TempPathFactory) -> Problem:
    """The same samples in half as many steps again."""
    path = tmp_path_factory.mktemp("longer") / "t.zarr"
    trace(tiny.pipeline(), replace(workload, num_steps=18), CachePoint(), path, model_name="t", batch=4, tokens=1)
    return Problem(Trace(path))


def test_on_its_own_steps_a_plan_is_kept_as_it_is(recorded: Trace, earlier: Plan, problem: Problem) -> None:
    begun = started(Problem(recorded), earlier)
    np.testing.assert_allclose(begun.damping, problem.damping, atol=1e-4)
    kept = kept_candidate(begun, earlier, BUDGET, 0)
    assert kept is not None
    section = build_section(kept)
    assert section.schedule == earlier.section.schedule
    np.testing.assert_array_equal(plan_taps(section), plan_taps(earlier.section))
    assert begun.identity != problem.identity, "its rollouts are others, where storage is shared"
    assert kept_candidate(begun, earlier, Budget.parse("5 steps"), 0) is None, "more may be computed now"
    assert held(None, kept, None) is None, "nothing is certified"


def test_a_plan_holds_where_few_samples_cannot_tell(recorded: Trace, earlier: Plan) -> None:
    kept = kept_candidate(started(Problem(recorded), earlier), earlier, BUDGET, 0)
    assert kept is not None

    def of(lower_db: float) -> Held:
        told = SimpleNamespace(lower_db=lower_db, level=0.95, metric="PSNR")
        found = held(tiny.pipeline(), kept, cast(Certificate, told))
        assert found is not None
        return found

    first = of(0.0)
    assert first.upper_db > first.agreement_db
    assert of((first.agreement_db + first.upper_db) / 2).holds
    assert not of(first.upper_db + 0.1).holds


def test_rows_are_kept_wherever_they_say_the_same(recorded: Trace, earlier: Plan) -> None:
    """Of a schedule with a computed step moved, those before it."""
    kept = kept_candidate(started(Problem(recorded), earlier), earlier, BUDGET, 0)
    assert kept is not None
    *steps, last = kept.schedule.computed_steps
    moved = kept.moved(type(kept.schedule).from_steps(recorded.num_steps, [*steps, last + 1]))
    section, fitted = build_section(moved), build_section(moved.moved(inherit=False))
    own = {row.step: taps for row, taps in zip(rows_of(earlier.section), plan_taps(earlier.section), strict=True)}
    pairs = zip(rows_of(section), plan_taps(section), plan_taps(fitted), strict=True)
    same = {
        row.step: (row.step in own and np.array_equal(taps, own[row.step]), np.array_equal(taps, new))
        for row, taps, new in pairs
    }
    assert {step for step, (inherits, _) in same.items() if inherits} == {s for s in own if s < last}
    assert all(is_fitted != inherits for inherits, is_fitted in same.values())


def test_on_other_steps_its_schedule_is_a_first_candidate(longer: Problem, earlier: Plan) -> None:
    begun, budget = started(longer, earlier), Budget.parse("6 steps")
    assert begun.earlier is None
    assert len(begun.damping) == 18
    assert kept_candidate(begun, earlier, budget, 0) is None
    (tuned,) = solve(begun, Settings(groups=1), [budget], 0)
    found, first = with_start([tuned], earlier, budget, 0)
    assert first == 2
    assert found[0].cost == min(candidate.cost for candidate in (found[0], tuned))
    steps = np.array(found[1].schedule.computed_steps)
    assert len(steps) == 6
    own = np.array(earlier.section.schedule.computed_steps) / 12
    assert np.abs(np.interp(np.linspace(0, 1, 6), np.linspace(0, 1, 4), own) - steps / 18).max() < 0.1
    assert not found[1].settings.inherit
    assert found[1].settings.ridge == SETTINGS.ridge


def test_rollouts_decide_and_fit_nothing_of_what_is_kept(recorded: Trace, earlier: Plan, tmp_path: Path) -> None:
    begun = started(Problem(recorded), earlier)
    (tuned,) = solve(begun, Settings(groups=1), [BUDGET], 0)
    found, first = with_start([tuned], earlier, BUDGET, 0)
    assert [candidate.settings.inherit for candidate in found[:first]] == [False, True, False]
    tried = list[Candidate]()

    def rollout(candidate: Candidate, beat: object) -> list[float]:
        tried.append(candidate)
        return [50.0 if candidate.settings.inherit else 40.0]

    limits = RolloutLimits(minutes=10, finalists=first, rollouts=8)
    winner, _ = search_by_rollouts(found, limits, SharedRollouts(tmp_path / "j", "s", rollout), 0)
    assert winner == found[1]
    moved = [candidate for candidate in tried[first:] if candidate.settings.inherit]
    assert moved
    assert {candidate.settings for candidate in moved} == {winner.settings}
    assert len({candidate.schedule for candidate in moved}) == len(moved)
