"""Fitted rows of presets that forecast at several points, or guidance branches by their difference to another."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch

from hyca_calib.commands.asked import Asked
from hyca_calib.commands.options import SearchLimits
from hyca_calib.commands.presets import OFFERS
from hyca_calib.costs.budget import Budget
from hyca_calib.pipelines.rollout import followed, sample_latents
from hyca_calib.pipelines.workload import Workload
from hyca_calib.quality.metrics import log_error
from hyca_calib.search.options import Refinement
from hyca_calib.search.problem import Problem
from hyca_calib.search.refinement_task import RefinementTask
from hyca_calib.search.step_caches import fitted_search, fitted_taps, mixcache, search, tries
from hyca_calib.search.step_caches.decided_run import DecidedRun, as_decided, decided_run
from hyca_calib.search.step_caches.fitted_taps import DecidedCourse, refine_rows, rows_met, statistics, traced_rules
from hyca_calib.search.step_caches.h2cache import DETAIL, STRUCTURE, H2Cache
from hyca_calib.search.step_caches.mixcache import MixCache
from hyca_calib.search.step_caches.rule import Rule
from hyca_calib.search.step_caches.stack import deciding_section, measure_stack
from hyca_calib.search.study import StudyFolder
from hyca_calib.search.tap_rollout import TapRollout
from hyca_calib.trace.run import trace
from hyca_calib.trace.store import Trace
from hyca_runtime import Plan
from hyca_runtime.errors import TraceError
from hyca_runtime.network_plan import NetworkPlan
from hyca_runtime.point import CachePoint, parse_point
from hyca_runtime.policies.mixed_granularity import BLOCK, OUTPUT
from hyca_runtime.schedule import EVERY
from hyca_runtime.solvers import FittedToPast

STEPS = 12
SPAN = "span:transformer_blocks.1..transformer_blocks."
GUIDED = tuple({**prompt, "true_cfg_scale": 3.0} for prompt in tiny.prompts())
CLASSES = tuple({"class_labels": letter, "guidance_scale": 3.0} for letter in "ABCDEF")
KINDS: dict[str, tuple[Callable[[], Any], Any, tuple[str, ...], float]] = {
    "h2cache": (tiny.pipeline, tiny.prompts(), (f"{SPAN}1:residual", "behind:3"), 0.4),
    "mixcache": (tiny.pipeline, GUIDED, (f"{SPAN}1:residual", "output"), 1.0),
    "mixcache in one call": (tiny.glyphs, CLASSES, (f"{SPAN}2:residual", "output"), 1.0),
}
"""Pipelines, prompts, points, and thresholds; with `IMPACTS` the second sample does all that the preset may do."""

IMPACTS = {
    "mixcache": (("step", 0.3), ("branch", 0.2), ("block", 0.3)),
    "mixcache in one call": (("step", 1.0), ("branch", 1.0), ("block", 1.0)),
}


class Subject:
    """A preset on a small model, with rows for what its runs meet."""

    def __init__(self, kind: str, folder: Path) -> None:
        make, prompts, points, threshold = KINDS[kind]
        self.pipe, work = make(), Workload(prompts, num_samples=7, num_steps=STEPS, seed=3)
        trace(make(), work, tuple(map(parse_point, points)), folder / "t.zarr", model_name="t", batch=4, tokens=10_000)
        self.problem, self.threshold = Problem(Trace(folder / "t.zarr")), threshold
        rule: Rule = H2Cache("transformer_blocks", 2)
        if kind in IMPACTS:
            rule = replace(MixCache.released(self.pipe.transformer, self.problem)[0], impact=IMPACTS[kind])
        self.rule, self.stack = measure_stack(self.pipe, self.problem, rule)
        section, self.fit = self.section(threshold), self.problem.samples("fit")
        self.problems = statistics(self.problem, section)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(fitted_taps, "RUNS", 3)
            self.taps, self.runs = rows_met(self.pipe, self.problem, section)
        self.fitted = self.taps.of(section)

    def section(self, threshold: float) -> NetworkPlan:
        return deciding_section(self.problem, self.stack, self.rule, threshold, [0], None)

    def run(self, section: NetworkPlan, number: int) -> DecidedRun:
        return decided_run(self.pipe, section, self.fit.jobs[number], STEPS)

    def task(self) -> RefinementTask:
        return RefinementTask(
            self.pipe, self.fitted, torch.zeros(1), lambda u: u, self.fit, self.problem.samples("select")
        )


@pytest.fixture(scope="module")
def subjects(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Subject]:
    @cache
    def make(kind: str) -> Subject:
        return Subject(kind, tmp_path_factory.mktemp("traces"))

    return make


@pytest.fixture(params=KINDS)
def subject(request: pytest.FixtureRequest, subjects: Callable[[str], Subject]) -> Subject:
    return subjects(request.param)


def test_each_point_has_rows_and_each_branch_that_is_kept_as_a_difference(subject: Subject) -> None:
    tables = subject.taps.tables
    if subject.rule.preset == "h2cache":
        assert {*tables} == {(STRUCTURE, EVERY), (DETAIL, EVERY)}
        structure, detail = (tables[name, EVERY].weights.shape[2] for name in (STRUCTURE, DETAIL))
        assert structure == 2 * detail, "both streams of a block"
    else:
        assert {*tables} == {(BLOCK, EVERY), (OUTPUT, EVERY), *((OUTPUT, other) for other in subject.rule.others)}
    assert subject.taps.weights.shape == (sum(len(of.pasts) for of in tables.values()), 3, subject.taps.width)
    again = subject.taps.weighing(subject.taps.weights)
    assert again.groups == subject.taps.groups


def test_a_rollout_of_what_was_decided_is_the_run(subject: Subject) -> None:
    done = set[int]()
    for number in range(3):
        run = subject.run(subject.fitted, number)
        decided = as_decided(subject.fitted, run.tables)
        assert decided.policy is None
        with followed(subject.pipe, Plan(name="always", sections=(decided,))):
            always = sample_latents(subject.pipe, [subject.fit.jobs[number]], STEPS, 1)
        assert torch.equal(always, run.latents)
        for checkpointed in (False, True):
            with TapRollout(subject.pipe, decided, checkpointed), torch.no_grad():
                rolled = sample_latents(subject.pipe, [subject.fit.jobs[number]], STEPS, 1)
            torch.testing.assert_close(rolled, run.latents, rtol=1e-4, atol=1e-5)
        done.update(*run.tables.values())
        if subject.rule.others:
            assert len({*run.tables.values()}) > 1, "branches do different things"
    assert done == {*range(len(subject.fitted.schedule.palette))}, "all that the preset may do"


def test_gradients_reach_the_rows_of_all_points(subject: Subject) -> None:
    """Held against differences of runs of the runtime, whose decisions are held."""
    weights = torch.from_numpy(subject.taps.weights).float().requires_grad_()
    with DecidedCourse(subject.task(), False, subject.fitted, subject.taps) as course, torch.enable_grad():
        course.follow(weights)
        loss = course.loss([1])
        (gradient,) = torch.autograd.grad(loss, weights)
    run, full = subject.run(subject.fitted, 1), subject.fit.latents[[1]]
    assert loss.item() == pytest.approx(log_error(run.latents, full).item(), rel=1e-3)

    def moved(direction: np.ndarray) -> float:
        section = subject.taps.weighing(subject.taps.weights + direction).of(subject.fitted)
        with followed(subject.pipe, Plan(name="moved", sections=(as_decided(section, run.tables),))):
            latents = sample_latents(subject.pipe, [subject.fit.jobs[1]], STEPS, 1)
        return log_error(latents, full).item()

    begin = 0
    for key, table in subject.taps.tables.items():
        own, end = np.zeros(gradient.shape), begin + len(table.pasts)
        for place, past in enumerate(table.pasts, begin):  # shorter rows are padded, and stay so
            own[place, : len(past) - 1] = gradient[place, : len(past) - 1].double().numpy()
        size, begin = float(np.linalg.norm(own)), end
        assert size > 0, key
        assert not own[:, :, table.weights.shape[2] :].any(), "channels that the point does not have"
        step = 1e-2 / size**2 * own
        assert moved(step) - moved(-step) == pytest.approx(2e-2, rel=0.05), key


def test_refined_rows_decide_anew_and_are_the_same_when_loaded(
    subject: Subject, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fitted_taps, "BATCH", 2)
    ran = list[str]()

    def told(pipe: Any, section: NetworkPlan, job: Any, num_steps: int) -> DecidedRun:
        ran.append(section.model_dump_json(include={"points"}))
        return decided_run(pipe, section, job, num_steps)

    monkeypatch.setattr(fitted_taps, "decided_run", told)
    settings, study = Refinement(minutes=30, iterations=3, evaluations=1), StudyFolder(tmp_path)
    section = subject.section(subject.threshold)
    met = subject.taps, subject.runs
    taps, account = refine_rows(
        subject.pipe, subject.problem, section, met, settings, study, 0, lambda share, psnr: None
    )
    assert account["iterations"] == 3
    assert account["select_psnr_after_db"] >= account["select_psnr_before_db"]
    assert len({*ran}) >= 1 + 3, "each iteration runs with its own rows"
    plan = Plan(name="fitted", sections=(taps.of(section),))
    for job in subject.fit.jobs[:2]:
        with followed(subject.pipe, plan):
            latents = sample_latents(subject.pipe, [job], STEPS, 1)
        with followed(subject.pipe, Plan.model_validate_json(plan.model_dump_json())):
            assert torch.equal(sample_latents(subject.pipe, [job], STEPS, 1), latents)


def test_what_fitted_rows_cannot_meet_is_left_out(
    subjects: Callable[[str], Subject], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With them `mixcache` finds that finer granularities are off by less, which cost more."""
    monkeypatch.setattr(fitted_search, "in_reach", lambda *_: False)
    for module, name in ((tries, "SAMPLES"), (fitted_taps, "RUNS")):
        monkeypatch.setattr(module, name, 1)
    monkeypatch.setattr(search, "HALVINGS", 1)
    subject, study = subjects("mixcache"), StudyFolder.open(tmp_path / "study", {})
    told, known = Refinement(minutes=30, iterations=1), [(subject.rule, subject.stack)]
    asked = (subject.pipe, subject.problem, Budget.parse("1.3x"), study, known, told, 0)
    plan = fitted_search.search_fitted(*asked, lambda stage, share, news: None)
    assert {group.solver.name for of in plan.section.points.values() for group in of.groups_of()} == {"hold"}
    assert study.read_result()["fitted"] == {"skipped": "no settings meet the budget by what fitted rows decide"}


def test_a_threshold_of_zero_computes_every_step(subject: Subject) -> None:
    section = subject.taps.of(subject.section(0.0))
    full = sample_latents(subject.pipe, [subject.fit.jobs[0]], STEPS, 1)
    run = subject.run(section, 0)
    assert torch.equal(run.latents, full)
    assert not run.forecasts


@pytest.mark.parametrize(("preset", "budget"), [("h2cache", "1.2x"), ("mixcache", "1.3x")])
def test_a_search_writes_the_better_plan(
    subjects: Callable[[str], Subject], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, preset: str, budget: str
) -> None:
    for module, name in ((tries, "SAMPLES"), (mixcache, "SAMPLES"), (fitted_taps, "RUNS"), (fitted_taps, "BATCH")):
        monkeypatch.setattr(module, name, 1)
    monkeypatch.setattr(search, "HALVINGS", 2)
    subject, wanted = subjects(preset), Budget.parse(budget)
    limits = SearchLimits(preset=preset, fitted=True, refine=30.0, iterations=1)
    study = StudyFolder.open(tmp_path / "study", {})
    plan = OFFERS[preset].prepare(Asked(subject.pipe, [subject.problem], [wanted], limits, tmp_path))(wanted, study)
    found = study.read_result()["fitted"]
    grouped = [group for of in plan.section.points.values() for groups in of.groups.values() for group in groups]
    better = FittedToPast.name if found["psnr_db"] >= found["hold_psnr_db"] else "hold"
    assert {group.solver.name for group in grouped} == {better}
    job = subject.problem.workload.of("select")[0]
    with followed(subject.pipe, plan) as session:
        sample_latents(subject.pipe, [job], STEPS, 1)
        report = session.report()
    assert (report.flops_ratio or 0.0) >= float(budget[:-1]) / 1.02
    assert 0 < report.cache_bytes <= (report.bytes_ahead or 0)


@pytest.mark.parametrize("kind", ["mixcache", "mixcache in one call"])
def test_statistics_of_a_difference_are_those_of_its_features(subjects: Callable[[str], Subject], kind: str) -> None:
    """Of all stored tokens, which are all there are."""
    subject = subjects(kind)
    problem, lead = subject.problem.at(parse_point("output")), subject.rule.lead
    assert lead is not None
    (other,) = subject.rule.others
    values = problem.trace.values("fit").astype(np.float64)  # (sample, branch, step, token, channel)
    gap = values[:, problem.trace.branches.index(other)] - values[:, problem.trace.branches.index(lead)]
    expected = np.einsum("nstc,nutc->csu", gap, gap) / len(values)
    np.testing.assert_allclose(problem.beside(other, lead).fit, expected, rtol=1e-4, atol=1e-6 * expected.max())
    assert subject.problems[OUTPUT, other].fit.shape == expected.shape


def test_the_trace_says_which_settings_can_be_fitted(subjects: Callable[[str], Subject], tmp_path: Path) -> None:
    subject = subjects("mixcache")
    rules = MixCache.released(subject.pipe.transformer, subject.problem)
    assert traced_rules(subject.problem, rules) == list(rules)
    make, prompts, _, _ = KINDS["mixcache"]
    work = Workload(prompts, num_samples=7, num_steps=4, seed=3)
    trace(make(), work, (parse_point("output"), CachePoint()), tmp_path / "o.zarr", model_name="t", batch=4, tokens=1)
    problem = Problem(Trace(tmp_path / "o.zarr"))
    assert traced_rules(problem, rules) == [rule for rule in rules if {*rule.points} == {OUTPUT}]
    told = (
        rf"rows are fitted at '{SPAN}1:residual' and 'behind:3', where h2cache forecasts, and the trace is of 'output' "
        rf"and 'trunk'; record one with hyca trace --point {SPAN}1:residual,behind:3"
    )
    with pytest.raises(TraceError, match=told):
        traced_rules(problem, H2Cache.released(subject.pipe.transformer))
