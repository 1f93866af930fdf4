"""Rows for what runs under a policy meet: fitted, refined under the decisions, and the adaptive plan of ours."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from plans import make_plan

from hyca_calib.commands.asked import Asked
from hyca_calib.commands.options import SearchLimits
from hyca_calib.commands.presets import OFFERS, preset_of
from hyca_calib.costs.budget import Budget
from hyca_calib.demo.emoji.pipeline import EmojiPipeline
from hyca_calib.pipelines.rollout import followed, sample_latents
from hyca_calib.quality.metrics import log_error
from hyca_calib.search.options import Refinement
from hyca_calib.search.problem import Problem
from hyca_calib.search.refinement_task import RefinementTask
from hyca_calib.search.replay import forecast_error, rows_of
from hyca_calib.search.rows import with_forecasts
from hyca_calib.search.step_caches import adaptive_search, fitted_search, fitted_taps, search, tries
from hyca_calib.search.step_caches.decided_run import as_decided, decided_run, pasts_met
from hyca_calib.search.step_caches.fitted_taps import DecidedCourse, FittedTaps, refine_rows, rows_met
from hyca_calib.search.step_caches.stack import deciding_section, measure_stack
from hyca_calib.search.step_caches.surprise import Surprise
from hyca_calib.search.study import StudyFolder
from hyca_calib.trace.store import Trace
from hyca_runtime import Plan
from hyca_runtime.errors import StudyError, TraceError
from hyca_runtime.network_plan import NetworkPlan
from hyca_runtime.policies import PacedBySurprise
from hyca_runtime.schedule import EVERY, Schedule
from hyca_runtime.solvers import FittedToPast, Newton, solver_from_spec

SCHEDULE = (0, 1, 4, 8)


@pytest.fixture
def problem(recorded: Trace) -> Problem:
    return Problem(recorded)


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few samples and halvings: quick."""
    monkeypatch.setattr(tries, "SAMPLES", 2)
    monkeypatch.setattr(search, "HALVINGS", 4)
    monkeypatch.setattr(fitted_taps, "RUNS", 3)
    monkeypatch.setattr(fitted_taps, "BATCH", 2)
    monkeypatch.setattr(adaptive_search, "RUNS", 3)


def moving(pipe: EmojiPipeline, problem: Problem, response: float = 0.4) -> tuple[NetworkPlan, FittedTaps]:
    """A section whose samples are computed on steps of their own, with rows for what they meet."""
    rule = Surprise.of(problem.trace.point, Schedule.from_steps(problem.trace.num_steps, SCHEDULE))
    _, stack = measure_stack(pipe, problem, rule)
    *_, rule = adaptive_search._responding(pipe, problem, rule, stack, [response])
    section = deciding_section(problem, stack, rule, 1.0, [0], None)
    (group,) = section.forecast.groups_of()
    solver = solver_from_spec(group.solver)
    assert isinstance(solver, FittedToPast)
    return section, FittedTaps({(section.only, EVERY): solver})


def test_a_plan_that_always_does_what_one_run_decided_draws_the_same(pipe: EmojiPipeline, problem: Problem) -> None:
    section, _ = moving(pipe, problem)
    different = set()
    for job in problem.workload.jobs:
        run = decided_run(pipe, section, job, problem.workload.num_steps)
        always = as_decided(section, run.tables)
        assert always.policy is None
        assert always.schedule.computed_steps == run.report.computed_at
        with followed(pipe, Plan(name="always", sections=(always,))):
            assert torch.equal(sample_latents(pipe, [job], problem.workload.num_steps, 1), run.latents)
        different.add(run.report.computed_at)
    assert len(different) > 1, "samples move"


def test_rows_are_no_worse_than_extrapolation_on_what_they_were_fitted_to(problem: Problem) -> None:
    section: Any = make_plan(tiny.pipeline().transformer, computed=SCHEDULE).section
    schedule, times = section.schedule, problem.times("step")
    (table,) = schedule.tables.values()
    pasts = pasts_met(section, section.only, [table], fitted_taps.DEPTH)
    assert (5, 4, 1, 0) in pasts, "what was forecast"
    assert (8, 4) in pasts, "what was computed, and the beginnings of pasts"
    assert (0,) not in pasts
    taps = FittedTaps.for_runs({(section.only, EVERY): problem}, section, [{"": table}])
    for weights, (step, *past) in zip(taps.weights, pasts, strict=True):
        linear = rows_of(Newton(1), times, past, [step])[:, 0]
        fitted = forecast_error(problem.fit, weights[: len(past)].T, past, step).sum()
        assert fitted <= 1.001 * forecast_error(problem.fit, linear, past, step).sum()
        assert not np.any(weights[len(past) :])


def test_the_loss_is_that_of_the_run_and_its_gradient_reaches_what_it_met(
    pipe: EmojiPipeline, problem: Problem
) -> None:
    section, taps = moving(pipe, problem)
    fit, select = problem.samples("fit"), problem.samples("select")
    task = RefinementTask(pipe, section, torch.zeros(1), lambda u: u, fit, select)
    weights = torch.from_numpy(taps.weights).float().requires_grad_()
    with DecidedCourse(task, False, section, taps) as course, torch.enable_grad():
        course.follow(weights)
        loss = course.loss([4])
        (gradient,) = torch.autograd.grad(loss, weights)
    run = decided_run(pipe, section, fit.jobs[4], fit.num_steps)
    assert loss.item() == pytest.approx(log_error(run.latents, fit.latents[[4]]).item(), rel=1e-3)
    (table,), computed = run.tables.values(), run.report.computed_at
    forecast = [step for step, number in enumerate(table) if number]
    (known,) = taps.tables.values()
    moved = {past[0] for past, of in zip(known.pasts, gradient, strict=True) if of.abs().sum() > 0}
    assert moved
    assert moved <= set(forecast), f"{computed} are computed"
    with DecidedCourse(task, True, section, taps) as course, torch.enable_grad():
        course.follow(weights)
        (again,) = torch.autograd.grad(course.loss([4, 3]), weights)
        (first,) = torch.autograd.grad(course.loss([3]), weights)
    torch.testing.assert_close(again, (gradient + first) / 2, rtol=1e-3, atol=1e-3 * again.abs().max().item())


def test_runs_that_forecast_nothing_have_nothing_to_teach(
    pipe: EmojiPipeline, problem: Problem, tmp_path: Path
) -> None:
    section, taps = moving(pipe, problem)
    policy = PacedBySurprise(0.0, (1.0,)).spec()
    full = with_forecasts(section.model_copy(update={"policy": policy}), section.points)
    settings = Refinement(minutes=1, iterations=1)
    fit, select = problem.samples("fit"), problem.samples("select")
    met, study = rows_met(pipe, problem, full), StudyFolder(tmp_path)
    _, account = refine_rows(pipe, problem, full, met, settings, study, 0, lambda share, psnr: None)
    assert account == {}
    task = RefinementTask(pipe, full, torch.zeros(1), lambda u: u, fit, select)
    weights = torch.from_numpy(taps.weights).float().requires_grad_()
    with DecidedCourse(task, False, full, taps) as course, torch.enable_grad():
        course.follow(weights)
        (gradient,) = torch.autograd.grad(course.loss([0]), weights)
    assert not gradient.any()


def test_refinement_under_the_decisions_improves_unseen_samples_and_resumes(
    pipe: EmojiPipeline, problem: Problem, tmp_path: Path
) -> None:
    section, _ = moving(pipe, problem)
    told: list[float] = []

    def fit(iterations: int) -> tuple[FittedTaps, dict[str, Any]]:
        settings = Refinement(minutes=30, iterations=iterations, evaluations=2)
        study = StudyFolder(tmp_path)
        met = rows_met(pipe, problem, section)
        return refine_rows(pipe, problem, section, met, settings, study, 0, lambda share, psnr: told.append(psnr))

    _, account = fit(6)
    assert account["iterations"] == 6
    taps, account = fit(8)
    assert account["iterations"] == 8
    assert account["select_psnr_after_db"] > account["select_psnr_before_db"]
    select = problem.samples("select")
    refined = taps.of(section)
    errors = [
        log_error(decided_run(pipe, refined, job, select.num_steps).latents, select.latents[[i]]).item()
        for i, job in enumerate(select.jobs)
    ]
    peak = select.log_peak.mean().item()
    found = 10 * (peak - statistics.fmean(errors)) / np.log(10)
    assert found == pytest.approx(account["select_psnr_after_db"], abs=0.05)


def test_an_adaptive_plan_meets_its_budget_and_is_the_same_when_loaded(
    pipe: EmojiPipeline, problem: Problem, tmp_path: Path
) -> None:
    limits = SearchLimits(preset="adaptive", trials=2, probes=0, rollouts=2, refine=10.0, iterations=2)
    budget = Budget.parse("2x")
    study = StudyFolder.open(tmp_path / "study", {})
    plan = OFFERS["adaptive"].prepare(Asked(pipe, [problem], [budget], limits, tmp_path))(budget, study)
    shares = []
    for job in problem.workload.of("select")[:2]:
        with followed(pipe, plan) as session:
            latents = sample_latents(pipe, [job], problem.workload.num_steps, 1)
            report = session.report()
        with followed(pipe, Plan.model_validate_json(plan.model_dump_json())):
            assert torch.equal(sample_latents(pipe, [job], problem.workload.num_steps, 1), latents)
        assert plan.section.policy is not None
        assert report.computed <= (plan.section.policy.max_computed or 0)
        assert report.waits == len([step for step in report.computed_at if 0 < step < 11])
        shares.append(1 / (report.flops_ratio or 1.0))
    assert statistics.fmean(shares) <= 1 / 2
    account = study.read_result()
    assert [one["response"] for one in account["contenders"]] == [*adaptive_search.RESPONSES]
    assert account["refinement"]["iterations"] == 2
    assert {"pasts", "psnr_db", "fitted_to_past_psnr_db"} == account["fitted"].keys()


def test_a_plan_does_not_tell_of_a_refinement_that_it_left_out(
    pipe: EmojiPipeline, problem: Problem, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoilt(*asked: Any) -> tuple[FittedTaps, dict[str, Any]]:
        (taps, _), *_ = asked[3:]
        return taps.weighing(0 * taps.weights), {"iterations": 1}

    monkeypatch.setattr(fitted_search, "refine_rows", spoilt)
    limits = SearchLimits(preset="adaptive", trials=1, probes=0, confirm=0.0, response=0.0)
    budget, study = Budget.parse("3x"), StudyFolder.open(tmp_path / "study", {})
    plan = OFFERS["adaptive"].prepare(Asked(pipe, [problem], [budget], limits, tmp_path))(budget, study)
    assert "refinement" not in plan.provenance
    assert study.read_result()["refinement"] == {"skipped": "the plan without it agrees better"}


def test_rows_are_fitted_where_the_preset_forecasts(pipe: EmojiPipeline, problem: Problem, tmp_path: Path) -> None:
    limits = SearchLimits(preset="dbcache", fitted=True)
    with pytest.raises(TraceError, match=r"at 'behind:1', .* trace is of 'trunk'; .* hyca trace --point behind:1"):
        OFFERS["dbcache"].prepare(Asked(pipe, [problem], [Budget.parse("2x")], limits, tmp_path))
    with pytest.raises(StudyError, match=r"--fitted is for --preset dicache or .*, got --preset smoothcache"):
        preset_of(SearchLimits(preset="smoothcache", fitted=True))
