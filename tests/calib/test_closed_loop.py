"""Rows fitted in runs of the plan itself."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from diffusers import DDIMScheduler
from guided import KINDS, PROMPTS

from hyca_calib.pipelines.rollout import sample_latents
from hyca_calib.pipelines.workload import Job, Workload
from hyca_calib.search.assemble import build_section
from hyca_calib.search.candidate import Candidate
from hyca_calib.search.closed_loop import SAMPLES, InTheLoop
from hyca_calib.search.closing_rollout import ClosingRollout, Tokens, full_run
from hyca_calib.search.problem import Problem
from hyca_calib.search.rollout_error import raced_psnr
from hyca_calib.search.rows import plan_taps
from hyca_calib.search.settings import Settings
from hyca_calib.trace.run import trace
from hyca_calib.trace.store import Trace
from hyca_runtime.network_plan import NetworkPlan
from hyca_runtime.point import CachePoint
from hyca_runtime.schedule import Action, Schedule

STEPS, COMPUTED = 12, (0, 1, 4, 8)


def predicts_noise() -> Any:
    pipe = tiny.glyphs()
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, prediction_type="epsilon", beta_schedule="linear")
    return pipe


SUBJECTS = {
    **KINDS,
    "predicts noise": (predicts_noise, KINDS["one call"][1]),
    "no guidance": (tiny.pipeline, tuple({"prompt": text} for text in PROMPTS)),
}


@pytest.fixture(scope="module", params=SUBJECTS)
def subject(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Problem]:
    make, prompts = SUBJECTS[request.param]
    path: Path = tmp_path_factory.mktemp("closed") / "t.zarr"
    trace(make(), Workload(prompts, 14, STEPS, 1), CachePoint(kind="output"), path, model_name="t", batch=4, tokens=8)
    return make(), Problem(Trace(path))


def candidate_of(problem: Problem, **settings: Any) -> Candidate:
    return Candidate(problem, Settings(groups=1, **settings), Schedule.from_steps(STEPS, COMPUTED))


def on_fit(pipe: Any, problem: Problem, section: NetworkPlan) -> float:
    return statistics.fmean(raced_psnr(pipe, section, problem.samples("fit"), ()))


def test_what_is_added_up_is_what_the_latent_is_off(subject: tuple[Any, Problem]) -> None:
    """At the output the sum of a plan's errors, weighted by the sampler's response, is the final latent's error."""
    pipe, problem = subject
    samples, tokens = problem.samples("fit"), Tokens(problem)
    full = [full_run(pipe, problem, job, tokens) for job in samples.jobs]
    together = {key: np.concatenate([of[key] for of in full]) for key in full[0]}
    section = build_section(candidate_of(problem))
    with ClosingRollout(pipe, problem, section, tokens, together, len(full)) as rollout, torch.no_grad():
        found = sample_latents(pipe, samples.jobs, STEPS, len(samples.jobs))
    rollout.settle(STEPS)
    off = (found - samples.latents).square().sum().item()
    assert np.square(rollout.error).sum() == pytest.approx(off, rel=1e-3)


def test_fitted_in_the_loop_samples_come_nearer(subject: tuple[Any, Problem], tmp_path: Path) -> None:
    pipe, problem = subject
    in_loop = InTheLoop(pipe, problem, tmp_path)
    for sources in ("own", *problem.sources):
        candidate = candidate_of(problem, sources=sources, depth=2)
        section, closed = (in_loop.section(candidate.moved(in_loop=way)) for way in (False, True))
        assert (plan_taps(section) == plan_taps(build_section(candidate))).all()
        assert on_fit(pipe, problem, closed) > on_fit(pipe, problem, section) + 0.5, sources


def test_full_runs_are_kept_for_all_candidates(
    subject: tuple[Any, Problem], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe, problem = subject
    asked = list[Job]()

    def counted(pipe: Any, problem: Problem, job: Job, tokens: Tokens) -> Any:
        asked.append(job)
        return full_run(pipe, problem, job, tokens)

    monkeypatch.setattr("hyca_calib.search.closed_loop.full_run", counted)
    candidate = candidate_of(problem, in_loop=True)
    first, *later = (plan_taps(InTheLoop(pipe, problem, tmp_path).section(candidate)) for _ in range(2))
    assert (first == later[0]).all()
    assert asked == list(problem.samples("fit").jobs[:SAMPLES])


def test_where_it_does_not_apply_rows_stay(subject: tuple[Any, Problem], tmp_path: Path) -> None:
    pipe, problem = subject
    candidate = candidate_of(problem, in_loop=True)
    in_loop, hurried = (InTheLoop.within(minutes, pipe, problem, tmp_path) for minutes in (None, 1e-9))
    assert in_loop.can_fit(candidate)
    assert in_loop.cost == len(problem.samples("fit").jobs) / len(problem.samples("select").jobs)
    palette = (*candidate.schedule.palette, Action(forecast=("behind:1",)))
    mixed = Schedule(palette=palette, tables=candidate.schedule.tables)
    inert = [
        (in_loop, candidate_of(problem, taps="group", in_loop=True)),
        (in_loop, candidate_of(problem, inherit=True, in_loop=True)),
        (hurried, candidate),
    ]
    assert not in_loop.can_fit(candidate.moved(mixed))
    for maker, one in inert:
        assert not maker.can_fit(one)
        assert maker.section(one) == build_section(one)


def test_what_rollouts_chose_is_kept(subject: tuple[Any, Problem], tmp_path: Path) -> None:
    """A refinement that goes on begins with the rows that it began with."""
    pipe, problem = subject
    candidate, kept = candidate_of(problem, in_loop=True), tmp_path / "rows"
    first = InTheLoop(pipe, problem, None).settled(candidate, kept)
    again = InTheLoop(None, problem, None).settled(candidate, kept)
    assert (plan_taps(first) == plan_taps(again)).all()
    assert (plan_taps(first) != plan_taps(build_section(candidate))).any()
    assert InTheLoop(None, problem, None).settled(candidate.moved(in_loop=False), kept) == build_section(candidate)
    other = candidate.moved(ridge=10 * candidate.settings.ridge)
    in_loop = InTheLoop(pipe, problem, None)
    assert in_loop.settled(other, kept) == in_loop.section(other), "rows of another are not taken for its own"


def test_rows_that_cannot_be_fitted_again_are_told(
    subject: tuple[Any, Problem], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pipe, problem = subject
    asked = list[Job]()

    def untold(pipe: Any, problem: Problem, job: Job, tokens: Tokens) -> Any:
        asked.append(job)
        return {}

    monkeypatch.setattr("hyca_calib.search.closed_loop.full_run", untold)
    candidate, in_loop = candidate_of(problem, in_loop=True), InTheLoop(pipe, problem, None)
    for name in ("one", "two"):
        assert in_loop.settled(candidate, tmp_path / name) == build_section(candidate)
    assert len(asked) == 1, "a run that cannot be told is not made again"
    assert "could not be fitted again" in capsys.readouterr().err.replace("\n", " ")


def test_samples_that_are_not_drawn_together_are_halved(
    subject: tuple[Any, Problem], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """As where memory is short, whoever notices it."""
    pipe, problem = subject
    section, asked = build_section(candidate_of(problem)), list[int]()

    def sample(pipe: Any, jobs: Any, steps: int, batch: int) -> torch.Tensor:
        asked.append(len(jobs))
        if len(jobs) > 4:
            return torch.cat([sample_latents(pipe, jobs[:3], steps, 3), sample_latents(pipe, jobs[3:], steps, 9)])
        return sample_latents(pipe, jobs, steps, batch)

    in_loop = InTheLoop(pipe, problem, tmp_path, 5)
    monkeypatch.setattr("hyca_calib.search.closed_loop.sample_latents", sample)
    assert in_loop.fitted(section) is None
    assert asked == [5]  # fewer than the least are not tried
    monkeypatch.setattr("hyca_calib.search.closed_loop.LEAST", 2)
    assert in_loop.fitted(section) is not None
    assert asked == [5, 5, 2]
