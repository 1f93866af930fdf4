"""The stages of a search on the tiny model."""

from __future__ import annotations

import gc
import itertools
import json
import sys
import time
import weakref
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from storage import record

from hyca_calib.costs.budget import Budget
from hyca_calib.demo.emoji.pipeline import EmojiPipeline
from hyca_calib.pipelines.rollout import sample_latents
from hyca_calib.pipelines.workload import Workload
from hyca_calib.quality.metrics import log_error
from hyca_calib.search import refined_points
from hyca_calib.search import study as study_folder
from hyca_calib.search.assemble import build_section
from hyca_calib.search.candidate import Candidate
from hyca_calib.search.evolve import evolve_taps
from hyca_calib.search.options import Grain, Refinement, RolloutLimits, SearchOptions, Tuning
from hyca_calib.search.preconditioner import OWN, coordinates, preconditioned
from hyca_calib.search.presets import PRESETS, choose_once
from hyca_calib.search.problem import Problem
from hyca_calib.search.refine import affordable, refine_taps, step_size
from hyca_calib.search.refinement_state import RefinementState
from hyca_calib.search.refinement_task import Alike, RefinementTask
from hyca_calib.search.replay import forecast_error
from hyca_calib.search.rollout_error import is_behind, raced_psnr, rollout_psnr
from hyca_calib.search.rollout_search import neighbours, search_by_rollouts
from hyca_calib.search.rows import plan_taps, with_taps
from hyca_calib.search.run import search, search_preset
from hyca_calib.search.settings import Settings
from hyca_calib.search.shared_rollouts import SharedRollouts
from hyca_calib.search.solver_table import solver_label
from hyca_calib.search.study import StudyFolder
from hyca_calib.search.tap_rollout import TapRollout
from hyca_calib.search.tune import solve, tune
from hyca_calib.trace.run import trace
from hyca_calib.trace.store import Trace
from hyca_runtime import load_plan
from hyca_runtime.errors import StudyError
from hyca_runtime.feature import Feature
from hyca_runtime.network_plan import NetworkPlan
from hyca_runtime.point import CachePoint
from hyca_runtime.schedule import Schedule

BUDGET = Budget.parse("3x")
SETTINGS = Settings(groups=3)


@pytest.fixture(scope="module")
def problem(recorded: Trace) -> Problem:
    return Problem(recorded)


@pytest.fixture
def study(tmp_path: Path) -> StudyFolder:
    return StudyFolder.open(tmp_path / "study", {"budget": "3x"})


def test_a_solved_schedule_keeps_the_budget(problem: Problem) -> None:
    cost = problem.trace.cost
    for text in ("1x", "1.5x", "3x", "5x", "2 steps", "50%"):
        budget = Budget.parse(text)
        schedule = solve(problem, SETTINGS, (budget,), seed=0)[0].schedule
        count = len(schedule.computed_steps)
        assert count == budget.computed_steps(cost, 12, 3)
        if budget.share is not None:
            assert 1 / cost.flops_ratio(12, count, 3) <= budget.share + 1e-9


def test_tuning_resumes_and_prefers_the_cheapest(problem: Problem, study: StudyFolder, tmp_path: Path) -> None:
    def run(trials: int, journal: Path = study.journal) -> list[Candidate]:
        return tune(problem, (BUDGET,), Tuning(trials=trials, timeout=3600), journal, seed=0)[BUDGET]

    first = run(4)
    lines = study.journal.read_text().count("\n")
    assert run(4) == first
    assert study.journal.read_text().count("\n") <= lines + 1  # nothing was tried again
    more = run(16)
    assert more[0].cost <= first[0].cost
    assert [c.cost for c in more] == sorted(c.cost for c in more)
    assert len({c.schedule for c in more}) == len(more)
    assert run(16, tmp_path / "uninterrupted.log") == more


def test_a_worker_killed_before_it_signs_changes_nothing(problem: Problem, study: StudyFolder) -> None:
    """Its trial began and nothing more: it must not count as one that others are at."""

    def run(journal: Path) -> list[Candidate]:
        return tune(problem, (BUDGET,), Tuning(trials=4, timeout=3600), journal, seed=0)[BUDGET]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("optuna.trial.Trial.set_user_attr", lambda *_: sys.exit())
        with pytest.raises(SystemExit):  # which leaves it as a kill does
            run(study.journal)
    assert run(study.journal) == run(study.folder / "other.log")


def test_a_failed_trial_is_made_again(problem: Problem, study: StudyFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if nothing had been."""
    count = [0]

    def tell(number: int, cost: float) -> None:
        count[0] += 1
        if count[0] == 14:
            raise KeyboardInterrupt

    def run(journal: Path) -> list[Candidate]:
        return tune(problem, (BUDGET,), Tuning(trials=16, timeout=3600), journal, 0, tell)[BUDGET]

    with pytest.raises(KeyboardInterrupt):
        run(study.journal)
    found = run(study.journal)
    assert count[0] == 14 + 3
    count[0] = 100
    assert run(study.folder / "other.log") == found


def test_neighbours_move_one_step() -> None:
    schedule = Schedule.from_steps(12, (0, 1, 5, 11))
    for other in neighbours(schedule, start=2):
        assert len(other.computed_steps) == 4
        assert {0, 1} <= set(other.computed_steps)
        assert len(set(other.computed_steps) - set(schedule.computed_steps)) == 1


def test_rollouts_never_make_it_worse_and_are_not_repeated(
    problem: Problem, study: StudyFolder, pipe: EmojiPipeline
) -> None:
    start = Candidate(problem, SETTINGS, Schedule.from_steps(12, (0, 1, 2, 3)))
    samples = problem.samples("select")
    before = rollout_psnr(pipe, build_section(start), samples)

    rolled: list[Candidate] = []

    def rollout(candidate: Candidate, beat: Sequence[float]) -> Sequence[float]:
        rolled.append(candidate)
        return raced_psnr(pipe, build_section(candidate), samples, ())

    def run(rollouts: int) -> tuple[Candidate, float]:
        shared = SharedRollouts(study.journal, "rollouts", rollout)
        return search_by_rollouts([start], RolloutLimits(minutes=60, rollouts=rollouts), shared, seed=0)

    best, psnr = run(12)
    assert rollout_psnr(pipe, build_section(best), samples) == psnr > before
    assert len(rolled) == 12
    assert run(12) == (best, psnr)
    assert len(rolled) == 12
    assert run(14)[1] >= psnr
    assert len(rolled) == 14


def test_a_rollout_is_broken_off_once_it_is_behind(
    problem: Problem, pipe: EmojiPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the first samples it says what a whole rollout says of them."""
    good, bad = (Candidate(problem, SETTINGS, Schedule.from_steps(12, steps)) for steps in ((0, 1, 4, 8), (0, 1, 2, 3)))
    samples = problem.samples("fit")
    count = len(samples.jobs)
    best, worst = (raced_psnr(pipe, build_section(one), samples, ()) for one in (good, bad))
    assert len(best) == len(worst) == count
    assert sum(best) > sum(worst)
    raced = raced_psnr(pipe, build_section(bad), samples, best)
    assert 3 <= len(raced) < count
    assert raced == pytest.approx(worst[: len(raced)], abs=1e-2)
    assert len(raced_psnr(pipe, build_section(good), samples, worst)) == count
    assert raced_psnr(pipe, build_section(good), samples, best) == pytest.approx(best, abs=1e-2)


def test_being_behind_takes_more_than_a_standard_error() -> None:
    assert is_behind([1.0, 2.0, 3.0], [2.0, 3.0, 4.0])
    assert not is_behind([1.0, 2.0, 3.0], [1.0, 2.0, 3.0])
    assert not is_behind([1.0, 2.0, 3.0], [4.0, 2.0, 1.0])
    assert is_behind([1.0, 2.0, 3.0], [4.0, 3.0, 3.5, 9.0]), "by those that both have"


def test_broken_off_rollouts_count_for_their_share_and_never_win(problem: Problem, study: StudyFolder) -> None:
    start = Candidate(problem, SETTINGS, Schedule.from_steps(12, (0, 1, 2, 3)))
    rolled: list[Candidate] = []

    def rollout(candidate: Candidate, beat: Sequence[float]) -> Sequence[float]:
        rolled.append(candidate)
        return [30.0, 31.0, 32.0, 33.0] if candidate == start else [29.0]

    shared = SharedRollouts(study.journal, "rollouts", rollout)
    best, psnr = search_by_rollouts([start], RolloutLimits(minutes=60, rollouts=6), shared, seed=0)
    assert (best, psnr) == (start, 31.5)
    assert len(rolled) == 1 + 5 * 4
    told = shared.history()
    assert [one["psnr_db"] for one in told] == [31.5] + [30.5] * 20, "as far behind as on what was run"
    assert [one["share"] for one in told] == [1.0] + [0.25] * 20


def test_every_rollout_that_is_allowed_is_another_one(problem: Problem, study: StudyFolder) -> None:
    """Also where an offline candidate is a neighbour of the best one."""
    first, second = (Schedule.from_steps(12, (0, 1, 2, last)) for last in (3, 4))
    offline = [Candidate(problem, SETTINGS, s).knowing(cost=cost) for s, cost in ((first, 1.0), (second, 2.0))]
    rolled: list[Candidate] = []

    def rollout(candidate: Candidate, beat: Sequence[float]) -> Sequence[float]:
        rolled.append(candidate)
        return [20.0 if candidate.schedule == first else 10.0]

    shared = SharedRollouts(study.journal, "rollouts", rollout)
    search_by_rollouts(offline, RolloutLimits(minutes=60, finalists=1, rollouts=24), shared, seed=0)
    assert len(rolled) == len(set(rolled)) == 24


def test_rollouts_end_when_their_minutes_are_over(
    problem: Problem, study: StudyFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that a rollout advances by an hour."""
    begun, rolled = time.monotonic(), list[Candidate]()
    monkeypatch.setattr("hyca_calib.search.stopwatch.monotonic", lambda: begun + 3600 * len(rolled))

    def rollout(candidate: Candidate, beat: Sequence[float]) -> Sequence[float]:
        rolled.append(candidate)
        return [1.0]

    start = Candidate(problem, SETTINGS, Schedule.from_steps(12, (0, 1, 2, 3)))
    shared = SharedRollouts(study.journal, "rollouts", rollout)
    search_by_rollouts([start], RolloutLimits(minutes=270), shared, seed=0)
    assert len(rolled) == 5


def test_moves_carry_the_groups(problem: Problem, study: StudyFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a schedule nor a ridge nor feedback is a reason to cluster the channels again."""
    offline = solve(problem, SETTINGS, (BUDGET,), 0)
    built: list[int] = []

    def rollout(candidate: Candidate, beat: Sequence[float]) -> Sequence[float]:
        built.append(len(build_section(candidate).forecast.groups_of()))
        return [float(len(built))]

    monkeypatch.setattr("hyca_calib.search.candidate.cluster", None)
    shared = SharedRollouts(study.journal, "rollouts", rollout)
    search_by_rollouts(offline, RolloutLimits(minutes=60, rollouts=8), shared, seed=0)
    assert built == [3] * 8


class Fits:
    """Rows are fitted in the loop at half of a rollout, of candidates that begin with two computed steps."""

    cost = 0.5

    def can_fit(self, candidate: Candidate) -> bool:
        return candidate.schedule.computed_steps[1] == 1


@pytest.mark.parametrize("nearer", [True, False])
def test_where_rows_fitted_in_the_loop_are_nearer_others_are_fitted_so(
    problem: Problem, study: StudyFolder, nearer: bool
) -> None:
    first, second = (Schedule.from_steps(12, steps) for steps in ((0, 1, 4, 8), (0, 2, 4, 8)))
    candidates, rolled = [Candidate(problem, SETTINGS, schedule) for schedule in (first, second)], list[Candidate]()

    def rollout(candidate: Candidate, beat: Sequence[float]) -> Sequence[float]:
        rolled.append(candidate)
        return [20.0 + (5.0 if nearer else -5.0) * candidate.settings.in_loop + len(rolled) / 100]

    shared, limits = SharedRollouts(study.journal, "rollouts", rollout), RolloutLimits(60, finalists=1, rollouts=40)
    best, _ = search_by_rollouts(candidates, limits, shared, seed=0, in_loop=Fits())
    assert best.settings.in_loop == nearer
    fitted = next(i for i, candidate in enumerate(rolled) if candidate.settings.in_loop)
    later = next(i for i, candidate in enumerate(rolled) if candidate.schedule == second)
    assert fitted < later
    assert not rolled[later].settings.in_loop, "its rows cannot be"
    others = [candidate for candidate in rolled[fitted + 1 :] if candidate != rolled[later]]
    assert all(candidate.settings.in_loop == nearer for candidate in others)
    spent = sum(1 + Fits.cost * candidate.settings.in_loop for candidate in rolled)
    assert 40 <= spent < 41.5


@pytest.fixture(scope="module")
def candidates(problem: Problem) -> list[Candidate]:
    return solve(problem, SETTINGS, (BUDGET,), 0)


@pytest.fixture
def start(candidates: list[Candidate]) -> NetworkPlan:
    return build_section(candidates[0])


def gradient(
    pipe: EmojiPipeline, section: NetworkPlan, workload: Workload, goal: torch.Tensor, checkpointed: bool
) -> torch.Tensor:
    taps = torch.from_numpy(plan_taps(section)).float().requires_grad_()
    with TapRollout(pipe, section, checkpointed) as rollout, torch.enable_grad():
        rollout.follow(taps)
        drawn = sample_latents(pipe, workload.of("fit"), 12, 6, with_grad=True)
        torch.autograd.backward(log_error(drawn, goal).mean())
    assert taps.grad is not None
    return taps.grad


def test_checkpointed_gradients_are_the_same_and_right(
    problem: Problem, workload: Workload, pipe: EmojiPipeline, start: NetworkPlan
) -> None:
    goal = torch.from_numpy(problem.trace.latents_of("fit"))
    plain, checked = (gradient(pipe, start, workload, goal, c) for c in (False, True))
    torch.testing.assert_close(plain, checked, rtol=1e-3, atol=1e-3 * plain.abs().max().item())

    taps, direction = plan_taps(start), plain.double().numpy()
    direction = direction / (direction**2).sum() ** 0.5
    losses = []
    for sign in (-1, 1):
        moved = with_taps(start, taps + sign * 1e-3 * direction)
        losses.append(-rollout_psnr(pipe, moved, problem.samples("fit")) * torch.log(torch.tensor(10.0)).item() / 10)
    assert (losses[1] - losses[0]) / 2e-3 == pytest.approx(plain.norm().item(), rel=0.05)
    assert all(p.requires_grad for p in pipe.transformer.parameters())


def test_a_rollout_leaves_nothing_behind(pipe: EmojiPipeline, workload: Workload, start: NetworkPlan) -> None:
    """Features that stay from run to run pin the heap, which then grows by gigabytes."""
    kept: list[weakref.ref[torch.Tensor]] = []

    def note(branch: str, step: int, history: Sequence[Feature]) -> None:
        kept.extend(weakref.ref(part) for feature in history for part in feature)

    taps = torch.from_numpy(plan_taps(start)).float().requires_grad_()
    with TapRollout(pipe, start, False, note) as rollout, torch.enable_grad():
        rollout.follow(taps)
        torch.autograd.backward(sample_latents(pipe, workload.of("fit")[:2], 12, 2, with_grad=True).sum())
        assert any(found() is not None for found in kept)
        rollout.follow(taps)
        gc.collect()
        assert not any(found() is not None for found in kept)


def refine(pipe: Any, problem: Problem, section: NetworkPlan, path: Path, iterations: int) -> tuple[Any, Any]:
    begin, expand = coordinates(problem, section, "channel")
    task = RefinementTask(pipe, section, begin, expand, problem.samples("fit"), problem.samples("select"))
    settings = Refinement(minutes=60, iterations=iterations, batch=6, evaluations=3)
    u, account = refine_taps(task, settings, path, seed=0)
    return expand(u), account


def test_refinement_improves_unseen_prompts_and_resumes(
    problem: Problem, pipe: EmojiPipeline, start: NetworkPlan, tmp_path: Path
) -> None:
    path = tmp_path / "r.safetensors"
    _, account = refine(pipe, problem, start, path, iterations=12)
    assert account["select_psnr_after_db"] > account["select_psnr_before_db"] + 0.5
    taps, again = refine(pipe, problem, start, path, iterations=14)
    assert (account["iterations"], again["iterations"]) == (12, 14)
    assert again["select_psnr_before_db"] == account["select_psnr_before_db"]
    assert again["minutes"] >= account["minutes"] > 0, "the clock goes on, too"
    refined = with_taps(start, taps.double().numpy())
    assert rollout_psnr(pipe, refined, problem.samples("select")) == pytest.approx(
        again["select_psnr_after_db"], abs=0.05
    )


def test_evolution_improves_and_resumes(
    problem: Problem, pipe: EmojiPipeline, start: NetworkPlan, tmp_path: Path
) -> None:
    begin, expand = coordinates(problem, start, "channel")
    task = RefinementTask(pipe, start, begin, expand, problem.samples("fit"), problem.samples("select"))
    settings = Refinement(minutes=60, iterations=6, batch=6, evaluations=3)
    found, account = evolve_taps(task, settings, tmp_path / "whole", seed=0)
    assert account["select_psnr_after_db"] > account["select_psnr_before_db"] + 0.2
    assert account["rollouts"] >= 6 * 6 * 3, "as much work as gradients would have been"
    evolve_taps(task, replace(settings, iterations=3), tmp_path / "parts", seed=0)
    again, resumed = evolve_taps(task, settings, tmp_path / "parts", seed=0)
    assert torch.equal(found, again)
    assert resumed["generations"] == account["generations"]
    for changed, seed in ((task, 1), (replace(task, of="another"), 0)):
        _, begun = evolve_taps(changed, replace(settings, iterations=1), tmp_path / "parts", seed)
        assert begun["generations"] < resumed["generations"], (
            "what another seed or task lived through is not taken over"
        )


def test_a_step_of_refinement_takes_fewer_samples_where_memory_is_short(
    problem: Problem, pipe: EmojiPipeline, start: NetworkPlan, tmp_path: Path
) -> None:
    begin, expand = coordinates(problem, start, "channel")
    tried: list[int] = []

    class Short(Alike):
        def loss(self, chosen: list[int]) -> torch.Tensor:
            tried.append(len(chosen))
            if len(chosen) > 2:
                raise torch.OutOfMemoryError("no room")
            return super().loss(chosen)

    fit, select = problem.samples("fit"), problem.samples("select")
    task = RefinementTask(pipe, start, begin, expand, fit, select, Short)
    settings = Refinement(minutes=60, iterations=3, batch=6, evaluations=1)
    _, account = refine_taps(task, settings, tmp_path / "r.safetensors", seed=0)
    assert tried == [6, 6, 6, 3, 1, 1, 1], "more is computed again before there are fewer samples"
    assert (account["batch"], account["recomputed"]) == (1, "blocks")


def test_refinement_that_has_no_time_changes_nothing(
    problem: Problem, pipe: EmojiPipeline, start: NetworkPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hyca_calib.search.refinement_task.log_error", None)  # nothing is judged
    begin, expand = coordinates(problem, start, "channel")
    task = RefinementTask(pipe, start, begin, expand, problem.samples("fit"), problem.samples("select"))
    found, account = refine_taps(task, Refinement(minutes=1e-9), tmp_path / "r.safetensors", seed=0)
    assert torch.equal(found, begin)
    assert "its minutes were over" in account["skipped"]


def test_refinement_ends_when_its_minutes_are_over(
    problem: Problem, pipe: EmojiPipeline, start: NetworkPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a clock that every look advances by a minute."""
    ticks = itertools.count()
    for module in ("refine", "refinement_state"):
        clock = SimpleNamespace(monotonic=lambda: 60.0 * next(ticks))
        monkeypatch.setattr(f"hyca_calib.search.{module}.time", clock)
    begin, expand = coordinates(problem, start, "channel")
    task = RefinementTask(pipe, start, begin, expand, problem.samples("select"), problem.samples("select"))
    _, account = refine_taps(task, Refinement(minutes=30, evaluations=1), tmp_path / "r.safetensors", seed=0)
    assert 0 < account["iterations"] < 30
    assert account["minutes"] >= 30


OPTIONS = SearchOptions(
    RolloutLimits(minutes=60, rollouts=8), Refinement(minutes=60, iterations=3, batch=6, evaluations=2)
)


def test_the_average_of_the_latest_parameters_is_judged_and_survives(tmp_path: Path) -> None:
    settings, path = Refinement(minutes=60, iterations=30), tmp_path / "state.safetensors"
    state, seen = RefinementState(torch.zeros(2), settings, path), list[torch.Tensor]()
    for _ in range(20):
        state.step((state.theta - 1).square().sum(), 0.1)
        seen.append(state.theta.detach().clone())
    expected = seen[0]
    for t, theta in enumerate(seen[1:], start=2):
        expected = expected + 10 / (t + 9) * (theta - expected)
    torch.testing.assert_close(state.average, expected)
    state.note(0.5)
    assert torch.equal(state.best, state.average)
    again = RefinementState(torch.zeros(2), settings, path)
    assert torch.equal(again.average, state.average)
    assert torch.equal(again.theta, state.theta)
    assert RefinementState(torch.zeros(2), settings, path, of="another").iteration == 0, (
        "of another it is not gone on with"
    )
    noisy = RefinementState(torch.zeros(200), settings, tmp_path / "other.safetensors")
    generator = torch.Generator().manual_seed(0)
    for _ in range(400):
        noisy.step((noisy.theta * torch.randn(200, generator=generator)).sum(), 0.1)
    assert noisy.average.std() < noisy.theta.std()


@pytest.mark.parametrize("taps", ["channel", "group"])
def test_a_whole_search(
    problem: Problem,
    candidates: list[Candidate],
    workload: Workload,
    study: StudyFolder,
    pipe: EmojiPipeline,
    taps: Grain,
) -> None:
    candidates = [replace(c, settings=replace(c.settings, taps=taps)) for c in candidates]
    news: list[str] = []
    plan = search(
        pipe,
        [candidates],
        BUDGET,
        study,
        OPTIONS,
        lambda stage, share, text: news.append(stage),
    )
    assert load_plan(study.plan) == plan
    assert study.complete
    assert plan.section.flops_ratio is not None
    assert plan.section.flops_ratio >= 3
    assert plan.section.quality is not None
    assert set(news) == {"confirm", "refine"}
    result = study.read_result()
    assert result["refinement"]["iterations"] > 0
    assert plan.section.quality.psnr_db >= max(r["psnr_db"] for r in result["rollouts"]) - 0.3
    widths = {
        group.indices.size: _width(group.solver.configuration["weights"]) for group in plan.section.forecast.groups_of()
    }
    if taps == "group":
        assert set(widths.values()) == {1}
    else:
        assert widths == {size: size for size in widths}


def _width(weights: Any) -> int:
    return int(weights["shape"][2]) if isinstance(weights, dict) else len(weights[0][0])


def test_a_pipeline_that_cannot_be_differentiated_keeps_its_fitted_taps(
    problem: Problem, candidates: list[Candidate], workload: Workload, study: StudyFolder
) -> None:
    class Closed(EmojiPipeline):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            with torch.no_grad():
                return super().__call__(*args, **kwargs)

    open_pipe = tiny.pipeline()
    closed = Closed(open_pipe.transformer, open_pipe.text_encoder, open_pipe.scheduler, 16)
    closed.set_progress_bar_config(disable=True)
    news: list[str] = []
    plan = search(
        closed,
        [candidates],
        BUDGET,
        study,
        OPTIONS,
        lambda stage, share, text: news.append(text),
    )
    assert study.complete
    account = study.read_result()["refinement"]
    assert account["by"] == "evolution"
    assert "require grad" in account["because"]
    assert account["select_psnr_after_db"] > account["select_psnr_before_db"]
    assert plan.provenance["refinement"]["rollouts"] == account["rollouts"]
    samples = problem.samples("select")
    found = rollout_psnr(closed, plan.section, samples)
    assert found == pytest.approx(account["select_psnr_after_db"], abs=0.05)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("no room"), RuntimeError("a fault of ours")])
def test_other_failures_of_refinement_are_told(
    problem: Problem,
    candidates: list[Candidate],
    workload: Workload,
    study: StudyFolder,
    pipe: EmojiPipeline,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
) -> None:
    def fail(*_: Any) -> torch.Tensor:
        raise error

    monkeypatch.setattr("hyca_calib.search.refinement_task.log_error", fail)
    with pytest.raises(type(error), match=str(error)):
        search(pipe, [candidates], BUDGET, study, OPTIONS)


def test_rollouts_decide_between_cache_points(
    problem: Problem,
    candidates: list[Candidate],
    workload: Workload,
    study: StudyFolder,
    pipe: EmojiPipeline,
    tmp_path: Path,
) -> None:
    path = tmp_path / "output.zarr"
    trace(tiny.pipeline(), workload, CachePoint(kind="output"), path, model_name="tiny:pipeline", batch=7, tokens=1)
    other = Problem(Trace(path))
    contenders = [candidates, solve(other, SETTINGS, (BUDGET,), 0)]
    plan = search(pipe, contenders, BUDGET, study, OPTIONS)
    found = study.read_result()["points"]
    assert set(found) == {"trunk", "output"}
    assert str(plan.section.forecast.at) == max(found, key=lambda point: found[point])
    assert plan.provenance["trace"] == (problem if plan.section.forecast.at.kind == "trunk" else other).trace.where


def test_of_near_points_the_one_goes_on_that_refinement_helps_most(
    candidates: list[Candidate],
    workload: Workload,
    study: StudyFolder,
    pipe: EmojiPipeline,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "output.zarr"
    trace(tiny.pipeline(), workload, CachePoint(kind="output"), path, model_name="tiny:pipeline", batch=7, tokens=1)
    contenders = [candidates, solve(Problem(Trace(path)), SETTINGS, (BUDGET,), 0)]
    search(pipe, contenders, BUDGET, study, OPTIONS)
    points = study.read_result()["points"]
    ahead, behind = sorted(points, key=lambda point: -points[point])
    monkeypatch.setattr("hyca_calib.search.run.NEAR_DB", 100.0)
    gains, shortly = {ahead: 40.0, behind: 50.0}, list[tuple[str, Refinement]]()

    def refine(task: RefinementTask, settings: Refinement, own: StudyFolder, seed: int) -> Any:
        label = str(task.section.forecast.at)
        shortly.append((label, settings))
        return None, {"select_psnr_after_db": gains[label]}

    monkeypatch.setattr(refined_points, "refine_somehow", refine)
    for name, chosen in (("one", behind), ("two", ahead)):
        own = StudyFolder.open(tmp_path / name, {})
        if chosen == ahead:
            gains |= {behind: 39.0}
        plan = search(pipe, contenders, BUDGET, own, OPTIONS)
        assert str(plan.section.forecast.at) == chosen
        assert {*json.loads((own.folder / refined_points.KEPT).read_text()).values()} == {*gains.values()}
    assert {label for label, _ in shortly} == {"trunk", "output"}
    assert {settings.iterations for _, settings in shortly} == {1}, "an eighth of three, rounded up"
    shortly.clear()
    for winner, times in ((candidates[0], 1), (candidates[0], 1), (candidates[0].moved(ridge=0.5), 2)):
        found = refined_points.refined_shortly(
            pipe, [winner], lambda one, _: build_section(one), OPTIONS.refinement, study, 0, lambda psnr: None
        )
        assert found == {"trunk": gains["trunk"]}
        assert len(shortly) == times, "what was measured is kept, and not taken for another winner's"


def test_a_recipe_at_a_point_of_one_channel(tmp_path: Path) -> None:
    grey, calls = tiny.glyphs(channels=1), tuple({"class_labels": label} for label in range(4))
    at, out = CachePoint(kind="output"), tmp_path / "grey.zarr"
    trace(grey, Workload(calls, 7, 8, 0), at, out, model_name="grey", batch=3, tokens=4)
    groups, solvers = choose_once(Problem(Trace(out)), PRESETS["hyca"].pool, 0)
    assert [group.tolist() for group in groups] == [[0]]
    assert len(solvers) == 1


def test_without_a_pipeline_only_the_statistics_speak(
    problem: Problem, candidates: list[Candidate], workload: Workload, study: StudyFolder
) -> None:
    plan = search(None, [candidates], BUDGET, study, OPTIONS)
    assert plan.section.quality is None
    assert study.read_result()["rollouts"] == []


def test_a_folder_holds_one_study(tmp_path: Path) -> None:
    StudyFolder.open(tmp_path / "a", {"budget": "3x", "limits": {"seed": 0, "trials": 9}})
    StudyFolder.open(tmp_path / "a", {"budget": "3x", "limits": {"seed": 0, "trials": 9}})
    with pytest.raises(StudyError, match=r"another budget \(3x, not 2x\), seed \(0, not 1\); choose"):
        StudyFolder.open(tmp_path / "a", {"budget": "2x", "limits": {"seed": 1, "trials": 9}})
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "notes.txt").write_text("mine")
    with pytest.raises(StudyError, match="not empty"):
        StudyFolder.open(tmp_path / "b", {})
    with pytest.raises(StudyError, match="no complete study"):
        StudyFolder(tmp_path / "a").read_result()
    (tmp_path / "a" / "request.json").write_text("{")
    with pytest.raises(StudyError, match="not JSON"):
        StudyFolder.open(tmp_path / "a", json.loads("{}"))


def test_a_study_that_another_worker_begins_at_this_moment_is_joined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "request.json.0a.partial").write_text("{")
    StudyFolder.open(tmp_path / "a", {"budget": "3x"})
    looked = study_folder.holds_anything

    def looks_while_another_begins(folder: Path, beside: str) -> bool:
        found = looked(folder, beside)
        folder.mkdir()
        (folder / "request.json").write_text('{"budget": "3x"}')
        (folder / "journal.log").write_text("")
        return found

    monkeypatch.setattr(study_folder, "holds_anything", looks_while_another_begins)
    StudyFolder.open(tmp_path / "b", {"budget": "3x"})


@pytest.mark.parametrize("multistep", ["anchored", "recursive"])
@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_a_published_recipe_becomes_a_plan(
    problem: Problem, workload: Workload, study: StudyFolder, pipe: EmojiPipeline, preset: str, multistep: Any
) -> None:
    plan = search_preset(pipe, [problem], Budget.parse("2x"), study, preset, multistep)
    assert load_plan(study.plan) == plan
    assert plan.section.quality is not None
    assert plan.section.quality.psnr_db > 10
    computed = plan.section.schedule.computed_steps
    assert computed[: PRESETS[preset].warmup] == tuple(range(PRESETS[preset].warmup))
    assert len(set(np.diff(computed[PRESETS[preset].warmup - 1 :]))) == 1
    assert {group["solver"] for group in study.read_result()["groups"]} <= {s.name for s in PRESETS[preset].pool} | {
        solver_label(s) for s in PRESETS[preset].pool
    }


def test_a_published_recipe_is_at_the_point_that_agrees_best(
    problem: Problem, workload: Workload, study: StudyFolder, pipe: EmojiPipeline, tmp_path: Path
) -> None:
    record(tmp_path / "output.zarr", workload, point=CachePoint(kind="output"), tokens=10_000)
    output = Problem(Trace(tmp_path / "output.zarr"))
    plan = search_preset(pipe, [problem, output], Budget.parse("2x"), study, "taylorseer", "anchored")
    points = study.read_result()["points"]
    assert set(points) == {"trunk", "output"}
    assert plan.section.quality is not None
    assert plan.section.quality.psnr_db == max(points.values())
    assert [str(point) for point in plan.section.places.values()] == [max(points, key=points.__getitem__)]


def test_slow_models_are_refined_in_smaller_batches() -> None:
    settings = Refinement(minutes=5, batch=12, evaluations=12)
    assert affordable(settings, 0.1, 8) == settings
    slow = affordable(settings, 1.0, 8)
    assert slow.batch == 5, "20 iterations, each three times as long as its rollouts"
    assert slow.evaluations == 7, "a fifth of the time"
    slowest = affordable(settings, 100.0, 8)
    assert (slowest.batch, slowest.evaluations) == (4, 3)
    assert affordable(Refinement(iterations=4), 100.0, 8) == Refinement(iterations=4), "the same on every machine"


def test_a_move_of_any_row_changes_its_forecast_by_its_error(problem: Problem, start: NetworkPlan) -> None:
    taps, (gram, places) = plan_taps(start), problem.regressions(start)
    begin, expand = torch.zeros(taps.shape), preconditioned(taps, places, gram)
    np.testing.assert_allclose(expand(begin).double().numpy(), taps, atol=1e-5)
    u = torch.randn(begin.shape, generator=torch.Generator().manual_seed(0))
    moved = expand(u).double().numpy() - taps
    for i, step in enumerate(start.schedule.predicted_steps):
        history = list(start.taps()[step].history)
        rows, past = moved[i, : len(history)].T, gram[:, history][:, :, history]
        change = np.einsum("ck,ckl,cl->c", rows, past, rows)
        missed = forecast_error(gram, taps[i, : len(history)].T, history, step)
        length = np.square(u[i, : len(history)].numpy()).sum(axis=0)
        assert not moved[i, len(history) :].any(), "padding stays zero"
        assert np.median(change / (missed * length)) == pytest.approx(1.0, abs=0.05)
        assert (change < 1.01 * missed * length + 1e-9).all(), "never more: the ridge only holds back"


def test_channels_move_with_their_group_and_less_on_their_own(problem: Problem, start: NetworkPlan) -> None:
    begin, expand = coordinates(problem, start, "channel")
    taps, groups = torch.from_numpy(plan_taps(start)).float(), len(start.forecast.groups_of())
    gram, places = problem.regressions(start)
    own = preconditioned(plan_taps(start), places, gram)
    torch.testing.assert_close(expand(begin), taps)
    members = list(start.forecast.groups_of()[1].indices)
    u = begin.clone()
    u[:, :, 1] = 0.1
    expected = torch.zeros_like(taps)
    expected[:, :, members] = 0.1
    torch.testing.assert_close(expand(u), own(expected))
    u = begin.clone()
    u[:, :, groups + members[0]] = 0.1
    expected = torch.zeros_like(taps)
    expected[:, :, members[0]] = 0.1 * OWN
    torch.testing.assert_close(expand(u), own(expected))


def test_groups_move_as_one(problem: Problem, start: NetworkPlan) -> None:
    grouped = with_taps(start, np.repeat(plan_taps(start)[:, :, :1], start.forecast.num_channels, axis=2))
    begin, expand = coordinates(problem, grouped, "group")
    assert begin.shape[2] == len(start.forecast.groups_of())
    taps = expand(begin + 0.1)
    for group in start.forecast.groups_of():
        rows = taps[:, :, group.indices]
        assert torch.equal(rows, rows[:, :, :1].expand_as(rows))


def test_refinement_begins_boldly_and_ends_carefully() -> None:
    settings = Refinement(lr=0.03)
    assert [step_size(settings, share) for share in (0.0, 0.5, 1.0)] == pytest.approx([0.03, 0.0165, 0.003])
