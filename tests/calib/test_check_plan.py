"""A plan on another trace: replayed as the runtime would run it, and judged by stated rules."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from plans import STEPS, make_plan

from hyca_calib.costs.budget import Budget
from hyca_calib.demo.emoji.pipeline import EmojiPipeline
from hyca_calib.pipelines.workload import Workload
from hyca_calib.search.assemble import build_section, provenance
from hyca_calib.search.candidate import Candidate
from hyca_calib.search.check_plan import SCHEDULE_DB, TAPS_DB, Costs, check_plan, decide, overfitted
from hyca_calib.search.check_rollouts import judge, measure, rollout_db
from hyca_calib.search.lineage import own_problem, refinement_gain
from hyca_calib.search.problem import Problem
from hyca_calib.search.replay import schedule_cost
from hyca_calib.search.retimed import BROKEN, is_on_grid, retime, retimed_cost
from hyca_calib.search.rows import plan_taps, with_taps
from hyca_calib.search.settings import Settings
from hyca_calib.search.tune import solve
from hyca_calib.trace.run import trace
from hyca_calib.trace.store import Trace
from hyca_runtime import Plan, PlanMismatchError, apply_plan
from hyca_runtime.point import CachePoint
from hyca_runtime.schedule import Schedule
from hyca_runtime.solvers import Hold, Newton

SETTINGS = Settings(groups=2)


def grid(times: list[float]) -> Any:
    """All that retiming asks of a trace: the scheduler's timesteps, and the network's."""
    return SimpleNamespace(attributes=SimpleNamespace(scheduler_timesteps=times), timesteps=np.array(times) / 1000)


@pytest.fixture(scope="module")
def problem(recorded: Trace) -> Problem:
    return Problem(recorded)


@pytest.fixture(scope="module")
def searched(problem: Problem) -> Plan:
    candidate = solve(problem, SETTINGS, [Budget.parse("4 steps")], 0)[0]
    return planned(candidate)


@pytest.fixture(scope="module")
def longer(workload: Workload, tmp_path_factory: pytest.TempPathFactory) -> Problem:
    """The same samples in twice as many steps."""
    return traced(tiny.pipeline(), replace(workload, num_steps=2 * STEPS), tmp_path_factory.mktemp("longer"))


def traced(pipe: EmojiPipeline, workload: Workload, folder: Path) -> Problem:
    trace(pipe, workload, CachePoint(), folder / "t.zarr", model_name="tiny:pipeline", batch=4, tokens=1)
    return Problem(Trace(folder / "t.zarr"))


def planned(candidate: Candidate, **lineage: Any) -> Plan:
    section = build_section(candidate)
    return Plan(name="searched", sections=(section,), provenance=provenance(candidate) | lineage)


def with_spoilt_taps(plan: Plan, by: float) -> Plan:
    taps = plan_taps(plan.section)
    taps[:, 0] += by
    return plan.model_copy(update={"sections": (with_taps(plan.section, taps),)})


class TestRetimed:
    def test_on_its_own_steps_it_is_the_plan(self, recorded: Trace, problem: Problem, plan: Plan) -> None:
        retimed = retime(plan.section, recorded)
        assert not retimed.adapted
        assert retimed.schedule == plan.section.schedule
        times = np.asarray(plan.section.grid.axis_times)
        halves = np.array_split(np.arange(recorded.num_channels), 2)
        expected = sum(
            float(
                schedule_cost(problem.select[half], retimed.schedule, times, problem.step_weights, [solver] * len(half))
                @ problem.channel_gain[half]
            )
            for half, solver in zip(halves, (Newton(1), Hold()), strict=True)
        )
        np.testing.assert_allclose(retimed_cost(problem, retimed), expected, rtol=1e-5)

    @pytest.mark.parametrize("steps", [6, 9, 18, 24, 50])
    def test_adapted_it_is_what_the_runtime_does(self, pipe: EmojiPipeline, steps: int) -> None:
        """Every feature of an adapted run is a computed one, or the retimed plan's sum of computed ones."""
        plan = make_plan(pipe.transformer)
        seen: list[np.ndarray] = []
        inner = pipe.transformer.norm_out.forward

        def forward(x: torch.Tensor, *rest: torch.Tensor) -> torch.Tensor:
            seen.append(x.numpy().copy())
            found: torch.Tensor = inner(x, *rest)
            return found

        pipe.transformer.norm_out.forward = forward
        generator = torch.Generator().manual_seed(1)
        with apply_plan(pipe, plan, "adapt") as session:
            pipe("red heart", num_inference_steps=steps, generator=generator, output_type="latent")
            computed = session.report().computed
        retimed = retime(plan.section, grid(pipe.scheduler.timesteps.tolist()))
        assert retimed.adapted
        assert len(retimed.schedule.computed_steps) == computed
        for step, rows in retimed.weights.items():
            history = retimed.schedule.history(step, len(rows))
            forecast = sum(row * seen[past] for row, past in zip(rows, history, strict=True))
            np.testing.assert_allclose(seen[step], forecast, rtol=1e-4, atol=1e-5)

    def test_other_times_of_as_many_steps_are_another_grid(self, recorded: Trace, plan: Plan) -> None:
        shifted = [1000 * 3 * s / (1 + 2 * s) for s in recorded.sigmas[:-1]]
        other = grid(shifted)
        assert is_on_grid(plan.section, recorded)
        assert not is_on_grid(plan.section, other)
        assert retime(plan.section, other).adapted

    def test_weights_that_break_down(self, problem: Problem, plan: Plan) -> None:
        retimed = retime(plan.section, problem.trace)
        broken = replace(retimed, weights={step: rows * np.nan for step, rows in retimed.weights.items()})
        assert retimed_cost(problem, broken) == BROKEN


class TestVerdict:
    def test_a_plan_holds_where_it_was_made(self, searched: Plan, problem: Problem) -> None:
        for own in (problem, None):
            check = check_plan(searched, problem, own)
            assert check.verdict == "holds"
            assert check.changes == ()
            assert not check.adapted
            assert abs(check.taps_db) < 0.01
            assert abs(check.schedule_db) < 0.01
            assert check.computed == check.redo_computed == searched.section.schedule.computed_steps

    def test_taps_that_err_are_to_be_made_again(self, searched: Plan, problem: Problem) -> None:
        slight, strong = (check_plan(with_spoilt_taps(searched, by), problem) for by in (1e-3, 0.05))
        assert strong.verdict == "refit"
        assert strong.taps_db > slight.taps_db > 0
        assert abs(strong.schedule_db) < 0.01
        assert strong.here is not None
        expected = 10 * np.log10(strong.here.plan / strong.here.refit)
        np.testing.assert_allclose(strong.taps_db, expected)

    def test_taps_that_always_cost_more_hold(self, searched: Plan, problem: Problem) -> None:
        """A published recipe or refined taps give up cost on purpose: that is no reason to make them again."""
        assert check_plan(with_spoilt_taps(searched, 0.05), problem, problem).verdict == "holds"

    def test_the_same_loss_weighs_more_in_a_refined_plan(self, searched: Plan, problem: Problem) -> None:
        spoilt = with_spoilt_taps(searched, 0.01)
        account = {"refinement": {"select_psnr_before_db": 40.0, "select_psnr_after_db": 46.0}}
        refined = spoilt.model_copy(update={"provenance": spoilt.provenance | account})
        assert refinement_gain(refined) == 6.0
        assert refinement_gain(spoilt) == 0.0
        excess = 10 ** (check_plan(spoilt, problem).taps_db / 10) - 1
        np.testing.assert_allclose(10 ** (check_plan(refined, problem).taps_db / 10) - 1, excess * 10**0.6)

    def test_a_poor_schedule_is_to_be_searched_again(self, problem: Problem) -> None:
        poor = planned(Candidate(problem, SETTINGS, Schedule.from_steps(STEPS, (0, 1, 2, 3))))
        check = check_plan(poor, problem)
        assert check.verdict == "redo"
        assert check.here is not None
        assert check.here.redo < check.here.refit < check.here.hold
        assert check_plan(poor, problem, problem).verdict == "holds"  # it was no better at home

    def test_other_steps_are_adapted(self, searched: Plan, longer: Problem, problem: Problem) -> None:
        check = check_plan(searched, longer, problem)
        assert check.adapted
        assert check.num_steps == 2 * STEPS
        assert check.changes == (f"{STEPS} steps -> {2 * STEPS}",)
        assert len(check.computed) == len(check.redo_computed) == 4
        assert check.verdict == decide(check.taps_db, check.schedule_db)
        assert check.here is not None
        assert check.here.plan > check.here.refit

    def test_nothing_is_saved_where_everything_is_computed(self, problem: Problem, longer: Problem) -> None:
        steps = longer.trace.num_steps
        dense = planned(Candidate(longer, SETTINGS, Schedule.from_steps(steps, set(range(steps)) - {5})))
        check = check_plan(dense, problem, longer)
        assert check.verdict == "redo"
        assert check.here is None
        assert "computes every step" in check.reason

    def test_other_models(self, searched: Plan, problem: Problem, tmp_path: Path, workload: Workload) -> None:
        wide = traced(tiny.pipeline(heads=4), workload, tmp_path)
        assert "32 channels, the trace has 64" in check_plan(searched, wide).reason
        for change, reason in (
            ({"transformer": "DiTTransformer2DModel"}, "is for a DiTTransformer2DModel"),
            ({"config_digest": "0" * 64}, "another configuration"),
        ):
            model = searched.section.model.model_copy(update=change)
            section = searched.section.model_copy(update={"model": model})
            check = check_plan(searched.model_copy(update={"sections": (section,)}), problem)
            assert check.verdict == "other model"
            assert reason in check.reason

    def test_another_cache_point_says_nothing(self, problem: Problem, pipe: EmojiPipeline) -> None:
        with pytest.raises(PlanMismatchError, match="trace with --point output"):
            check_plan(make_plan(pipe.transformer, point="output"), problem)

    def test_changes_are_named(self, searched: Plan, problem: Problem, workload: Workload, tmp_path: Path) -> None:
        guided = tuple(call | {"true_cfg_scale": 3.0} for call in workload.prompts)
        other = traced(tiny.pipeline(seed=1), replace(workload, prompts=guided, seed=9), tmp_path)
        check = check_plan(searched, other, problem)
        assert check.changes == (
            "other weights",
            "other prompts or settings",
            "another seed",
            "other guidance branches",
        )
        assert check.verdict == decide(check.taps_db, 0.0)
        assert "not counted" in check.reason

    def test_thresholds(self) -> None:
        assert decide(TAPS_DB, SCHEDULE_DB) == "holds"
        assert decide(TAPS_DB + 0.1, 0.0) == "refit"
        assert decide(TAPS_DB + 0.1, SCHEDULE_DB + 0.1) == "redo"
        assert decide(-2.0, SCHEDULE_DB + 0.1) == "holds"  # a new schedule would not make up for lost taps


class TestOwnTrace:
    def test_is_found_where_the_plan_says(self, searched: Plan, recorded: Trace) -> None:
        found, why = own_problem(searched)
        assert found is not None
        assert found.trace.where == recorded.where
        assert why == ""

    def test_must_be_the_one(self, searched: Plan, longer: Problem, tmp_path: Path) -> None:
        assert own_problem(searched, tmp_path / "gone.zarr")[1].startswith(str(tmp_path / "gone.zarr"))
        assert "is not the trace the plan was made on" in own_problem(searched, longer.trace.where)[1]
        bare = searched.model_copy(update={"provenance": {}})
        assert own_problem(bare) == (None, "the plan does not say which trace it was made on")


class TestRollouts:
    def test_the_verdict_of_rollouts(self) -> None:
        assert judge([40.0, 42.0], [40.5, 41.5], [41.0, 41.0], 0.0).verdict == "holds"
        fitted = judge([40.0, 42.0], [43.0, 45.0], [43.0, 45.0], 0.0)
        assert (fitted.verdict, fitted.taps_db, fitted.schedule_db) == ("refit", 3.0, 0.0)
        assert judge([40.0], [40.0], [43.0], 0.0).verdict == "redo"
        assert judge([40.0], [39.5], [39.5], refined_db=2.0).verdict == "refit"  # refined, they would be better

    def test_they_are_those_of_the_runtime(self, searched: Plan, problem: Problem) -> None:
        pipe, samples = tiny.pipeline(), problem.samples("test")[:3]
        found = measure(pipe, searched, problem, samples, batch=2)
        assert len(found.plan_db) == len(found.refit_db) == len(found.redo_db) == 3
        np.testing.assert_allclose(found.plan_db, found.refit_db, atol=0.01)  # it was fitted on this very trace
        computed = planned(Candidate(problem, SETTINGS, Schedule.from_steps(STEPS, range(STEPS)))).section
        full = rollout_db(pipe, computed, samples, 2)
        assert min(full) > max(found.plan_db) + 20
        wild = with_taps(searched.section, 1e38 * plan_taps(searched.section))
        assert rollout_db(pipe, wild, samples, 2) == pytest.approx([0.0] * 3, abs=1e-9)


def test_a_trace_of_too_few_samples_is_told() -> None:
    costs = Costs(plan=7.8, refit=9.0, redo=9.0, hold=5.9, closed=5.7, closed_form="taylor")
    assert "worse than taylor, so it has too few samples" in overfitted(costs)
    assert overfitted(costs.model_copy(update={"closed": 9.5})) == ""
