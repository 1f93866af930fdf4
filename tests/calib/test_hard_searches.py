"""Searches under what goes wrong: offloaded weights, NaN, no memory, no minutes, no difference, other searches."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import accelerate
import numpy as np
import pytest
import tiny
import torch

from hyca_calib.costs.budget import Budget
from hyca_calib.demo.emoji.pipeline import EmojiPipeline
from hyca_calib.pipelines.workload import Workload
from hyca_calib.search.assemble import build_section
from hyca_calib.search.candidate import Candidate
from hyca_calib.search.error_damping import measure_damping
from hyca_calib.search.evolve import evolve_taps, refine_somehow
from hyca_calib.search.lineage import refinement_gain
from hyca_calib.search.options import Refinement, RolloutLimits, SearchOptions, Tuning
from hyca_calib.search.outcome import write_outcome
from hyca_calib.search.preconditioner import coordinates
from hyca_calib.search.presets import PRESETS, preset_section
from hyca_calib.search.problem import Problem
from hyca_calib.search.refine import refine_taps
from hyca_calib.search.refinement_task import Alike, RefinementTask
from hyca_calib.search.rollout_error import raced_psnr
from hyca_calib.search.rollout_search import search_by_rollouts
from hyca_calib.search.run import search
from hyca_calib.search.settings import Settings
from hyca_calib.search.shared_rollouts import SharedRollouts
from hyca_calib.search.step_caches.fitted_search import search_fitted
from hyca_calib.search.study import StudyFolder
from hyca_calib.search.tune import solve, tune
from hyca_calib.trace.run import trace
from hyca_calib.trace.store import Trace
from hyca_runtime import Plan
from hyca_runtime.errors import BudgetError
from hyca_runtime.point import CachePoint

BUDGET = Budget.parse("3x")
SETTINGS = Settings(groups=3)
FEW = Refinement(minutes=60, iterations=12, batch=3, evaluations=4)


@pytest.fixture(scope="module")
def problem(recorded: Trace) -> Problem:
    return Problem(recorded)


@pytest.fixture(scope="module")
def candidate(problem: Problem) -> Candidate:
    return solve(problem, SETTINGS, (BUDGET,), 0)[0]


@pytest.fixture
def task(problem: Problem, candidate: Candidate, pipe: EmojiPipeline) -> RefinementTask:
    section = build_section(candidate)
    begin, expand = coordinates(problem, section, "channel")
    return RefinementTask(pipe, section, begin, expand, problem.samples("fit"), problem.samples("select"))


def test_a_model_whose_weights_are_elsewhere_between_calls(
    problem: Problem, candidate: Candidate, pipe: EmojiPipeline, tmp_path: Path
) -> None:
    options = SearchOptions(RolloutLimits(60, rollouts=2), replace(FEW, iterations=2))
    plans = [search(pipe, [[candidate]], BUDGET, StudyFolder.open(tmp_path / "here", {}), options)]
    probed = measure_damping(pipe, problem, 2)
    away = tiny.pipeline()
    accelerate.cpu_offload(away.transformer, execution_device=torch.device("cpu"))
    assert next(away.transformer.parameters()).device.type == "meta"
    plans.append(search(away, [[candidate]], BUDGET, StudyFolder.open(tmp_path / "away", {}), options))
    assert plans[0].section == plans[1].section
    np.testing.assert_array_equal(measure_damping(away, problem, 2), probed)


class TestFirstSteps:
    """Of a model whose first two calls a plan must compute, whatever it says of them."""

    @pytest.fixture
    def filling(self, recorded: Trace) -> Problem:
        known = Trace(recorded.where)
        known.attributes = known.attributes.model_copy(update={"first_computed": 2})
        return Problem(known)

    def test_rollouts_move_none_of_them(self, filling: Problem, tmp_path: Path) -> None:
        begun = solve(filling, SETTINGS, (BUDGET,), 0)[0]
        tried = list[tuple[int, ...]]()

        def rollout(candidate: Candidate, beat: Sequence[float]) -> Sequence[float]:
            tried.append(candidate.schedule.computed_steps)
            return [40.0 - len(tried)]

        rollouts = SharedRollouts(tmp_path / "shared.log", "rollouts", rollout)
        search_by_rollouts([begun], RolloutLimits(60, rollouts=60), rollouts, 0)
        assert len(set(tried)) > 5
        assert {steps[:2] for steps in tried} == {(0, 1)}

    @pytest.mark.parametrize("text", ["20x", "1 steps"])
    def test_they_are_paid_for(self, filling: Problem, text: str) -> None:
        filling.trace.attributes = filling.trace.attributes.model_copy(update={"first_computed": 3})
        both = (Budget.parse("2x"), Budget.parse(text))
        with pytest.raises(BudgetError, match="first 3"):
            solve(filling, SETTINGS, both, 0)
        with pytest.raises(BudgetError, match="first 3"):
            preset_section(filling, PRESETS["hold"], both[1], 0)
        (found,) = solve(filling, SETTINGS, both[:1], 0)
        assert found.schedule.computed_steps[:3] == (0, 1, 2)
        recipe, _ = preset_section(filling, PRESETS["hold"], both[0], 0, warmup=1)
        assert recipe.schedule.computed_steps[:3] == (0, 1, 2)


@contextmanager
def minutes_by(monkeypatch: pytest.MonkeyPatch, look: Callable[[], float]) -> Iterator[None]:
    """The clock of refinements says what `look` does, in minutes."""
    with monkeypatch.context() as patch:
        for module in ("evolve", "refine", "refinement_state"):
            patch.setattr(f"hyca_calib.search.{module}.time", SimpleNamespace(monotonic=lambda: 60.0 * look()))
        yield


class TestMinutes:
    def test_evolution_ends_with_its_minutes_however_many_iterations_are_left(
        self, task: RefinementTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ticks = itertools.count()
        with minutes_by(monkeypatch, lambda: next(ticks)):
            _, account = evolve_taps(task, replace(FEW, minutes=20, iterations=10**6), tmp_path, 0)
        assert 0 < account["generations"] <= 20

    def test_samples_drawn_on_the_way_take_none(
        self, task: RefinementTask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        now = [0.0]

        def more() -> None:
            now[0] += 100.0

        with minutes_by(monkeypatch, lambda: now[0]):
            _, account = refine_taps(replace(task, more=more), replace(FEW, minutes=20), tmp_path / "r", 0)
        assert (account["iterations"], account["minutes"]) == (FEW.iterations, 0)


def lost(at: Sequence[int], what: Callable[[torch.Tensor], torch.Tensor]) -> type[Alike]:
    """A course of which some losses with a gradient, counted from 1, are not what they should be."""
    count = itertools.count(1)

    class Lost(Alike):
        def loss(self, chosen: list[int]) -> torch.Tensor:
            found = super().loss(chosen)
            return what(found) if torch.is_grad_enabled() and next(count) in at else found

    return Lost


class TestNotFinite:
    def test_a_batch_without_a_finite_gradient_is_left_out_and_told(self, task: RefinementTask, tmp_path: Path) -> None:
        course = lost((3,), lambda loss: loss * math.nan)
        _, account = refine_taps(replace(task, course=course), FEW, tmp_path / "r", 0)
        assert account["not_finite"] == 1
        assert account["select_psnr_after_db"] > account["select_psnr_before_db"] + 0.5
        _, again = refine_taps(task, replace(FEW, iterations=13), tmp_path / "r", 0)
        assert again["not_finite"] == 1, "it is remembered"
        _, sound = refine_taps(task, FEW, tmp_path / "sound", 0)
        assert "not_finite" not in sound

    def test_a_sample_that_is_lost_is_worth_nothing_and_the_rest_is_judged(
        self, task: RefinementTask, tmp_path: Path
    ) -> None:
        goal = task.select.latents.clone()
        goal[0, 0] = math.nan
        broken = replace(task, select=replace(task.select, latents=goal))
        vars(broken.select)["log_peak"] = task.select.log_peak
        _, account = refine_taps(broken, FEW, tmp_path / "r", 0)
        assert account["select_psnr_after_db"] > account["select_psnr_before_db"] > 0

    @pytest.mark.parametrize("told", [{"select_psnr_before_db": None, "select_psnr_after_db": None}, {}])
    def test_a_plan_that_tells_no_number_has_gained_nothing(self, told: dict[str, Any], candidate: Candidate) -> None:
        plan = Plan(name="p", sections=(build_section(candidate),), provenance={"refinement": told})
        assert refinement_gain(plan) == 0


def test_what_gradients_found_before_memory_ran_out_stands(task: RefinementTask, tmp_path: Path) -> None:
    def fail(loss: torch.Tensor) -> torch.Tensor:
        raise torch.OutOfMemoryError("no room")

    study = StudyFolder.open(tmp_path / "study", {})
    late = replace(task, course=lost(range(9, 10**6), fail))
    found, account = refine_somehow(late, replace(FEW, iterations=24, evaluations=12), study, 0)
    assert "no room" in account["stopped"]
    assert "by" not in account, "evolution does not begin anew"
    assert account["select_psnr_after_db"] > account["select_psnr_before_db"] + 0.5
    with Alike(task, False) as course:
        course.follow(task.expand(found))
        best = course.error()
        course.follow(task.expand(task.start))
        assert best < course.error()


def test_no_more_rollouts_than_are_allowed_at_several_points(
    candidate: Candidate, pipe: EmojiPipeline, workload: Workload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, allowed = tmp_path / "output.zarr", 16
    trace(tiny.pipeline(), workload, CachePoint(kind="output"), path, model_name="tiny:pipeline", batch=7, tokens=1)
    contenders = [[candidate], solve(Problem(Trace(path)), SETTINGS, (BUDGET,), 0)]
    options = SearchOptions(RolloutLimits(60, rollouts=allowed), Refinement(minutes=0), in_loop=False)
    shares = list[float]()

    def counted(pipe: Any, section: Any, samples: Any, beat: Sequence[float]) -> list[float]:
        found = raced_psnr(pipe, section, samples, beat)
        shares.append(len(found) / len(samples.jobs))
        return found

    monkeypatch.setattr("hyca_calib.search.run.raced_psnr", counted)
    search(pipe, contenders, BUDGET, StudyFolder.open(tmp_path / "study", {}), options)
    assert allowed - 1 <= sum(shares) <= allowed + 1


def test_what_another_search_broke_off_is_rolled_out_where_it_has_nothing_to_beat(
    candidate: Candidate, tmp_path: Path
) -> None:
    candidates, rolled = [candidate.moved(ridge=ridge) for ridge in (0.5, 0.4)], list[int]()

    def rollout(one: Candidate, beat: Sequence[float]) -> Sequence[float]:
        rolled.append(3 if beat else 4)
        return [30.0, 30.1, 30.2, 30.3][: rolled[-1]]

    rollouts = SharedRollouts(str(tmp_path / "shared.log"), "rollouts", rollout)
    assert not any(found.whole for found in rollouts.score(candidates, [40.0, 40.1, 40.2, 40.3]))
    assert [found.whole for found in rollouts.score(candidates, [35.0] * 4)] == [False, False]
    assert rolled == [3, 3], "that they are behind is known"
    winner, psnr = search_by_rollouts(candidates, RolloutLimits(60, rollouts=1, finalists=2), rollouts, 0)
    assert winner == candidates[0]
    assert psnr == pytest.approx(30.15)
    assert rolled == [3, 3, 4, 4]


def test_features_that_never_change(recorded: Trace, tmp_path: Path) -> None:
    """Their cost is nothing, and by rounding less."""
    problem = Problem(recorded)
    shape = (recorded.num_channels, recorded.num_steps, recorded.num_steps)
    alike = np.ones(shape) * np.linspace(0.3, 7.7, recorded.num_channels)[:, None, None]
    vars(problem).update(fit=alike, judge=alike)
    found = tune(problem, (BUDGET,), Tuning(trials=3, timeout=60), tmp_path / "tune.log", 0)[BUDGET]
    assert found[0].cost < 1e-9


def test_of_several_workers_one_writes_the_plan(
    candidate: Candidate, problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever waited takes what was written meanwhile."""
    study, section, written = StudyFolder.open(tmp_path / "study", {}), build_section(candidate), list[Plan]()

    @contextmanager
    def meanwhile(own: StudyFolder) -> Iterator[None]:
        written.append(write_outcome(None, own, problem, section, BUDGET, "", {}, {"refinement": {}}))
        yield

    monkeypatch.setattr(StudyFolder, "last_word", meanwhile)
    found = search_fitted(None, problem, BUDGET, study, [], FEW, 0, lambda *_: None)
    assert written == [found]
