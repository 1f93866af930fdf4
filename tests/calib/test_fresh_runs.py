"""Full runs beyond the trace: which they are, that they are drawn once, and that refinement learns from them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from hyca_calib.costs.budget import Budget
from hyca_calib.demo.emoji.pipeline import EmojiPipeline
from hyca_calib.pipelines.rollout import sample_latents
from hyca_calib.pipelines.workload import Workload
from hyca_calib.search import fresh_runs
from hyca_calib.search.candidate import Candidate
from hyca_calib.search.fresh_runs import FRESH_RUNS, FreshRuns
from hyca_calib.search.options import Refinement, RolloutLimits, SearchOptions
from hyca_calib.search.problem import Problem
from hyca_calib.search.run import search
from hyca_calib.search.settings import Settings
from hyca_calib.search.study import StudyFolder
from hyca_calib.search.tune import solve
from hyca_calib.trace.store import Trace

BUDGET = Budget.parse("3x")


def quiet(share: float) -> None:
    del share


def test_further_samples_are_those_of_a_larger_workload(workload: Workload) -> None:
    own, more = workload.of("fit"), workload.further("fit", 5)
    larger = replace(workload, num_samples=10 * workload.num_samples).of("fit")
    assert [(job.seed, job.call) for job in (*own, *more)] == [(j.seed, j.call) for j in larger[: len(own) + 5]]
    asked = {str(job.call) for split in ("select", "test") for job in workload.of(split)}
    assert asked.isdisjoint(str(job.call) for job in more)
    assert not {job.seed for job in more} & {job.seed for job in workload.jobs}


def test_fresh_runs_are_drawn_once_and_go_on(
    pipe: EmojiPipeline, recorded: Trace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn, path = list[int](), tmp_path / FRESH_RUNS

    def counted(*args: Any, **kwargs: Any) -> torch.Tensor:
        drawn.append(len(args[1]))
        if len(drawn) == 2:
            raise KeyboardInterrupt
        return sample_latents(*args, **kwargs)

    monkeypatch.setattr(fresh_runs, "sample_latents", counted)
    with pytest.raises(KeyboardInterrupt):
        FreshRuns(6, path).drawn(pipe, recorded, quiet)
    shares = list[float]()
    found = FreshRuns(6, path).drawn(pipe, recorded, shares.append)
    assert drawn == [4, 2, 2]
    assert shares == pytest.approx([4 / 6, 1.0])
    torch.testing.assert_close(found.latents, sample_latents(pipe, found.jobs, found.num_steps, 6), rtol=0, atol=1e-4)
    more = FreshRuns(9, path).drawn(pipe, recorded, quiet)
    assert drawn == [4, 2, 2, 3]
    assert torch.equal(more.latents[:6], found.latents)
    assert FreshRuns(3, path).drawn(pipe, recorded, quiet).jobs == found.jobs[:3]


def test_fresh_runs_of_another_trace_are_drawn_anew(
    pipe: EmojiPipeline, recorded: Trace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / FRESH_RUNS
    FreshRuns(2, path).drawn(pipe, recorded, quiet)
    other = recorded.attributes.model_copy(update={"batch": 2, "model": recorded.attributes.model})
    monkeypatch.setattr(recorded, "attributes", other)
    FreshRuns(2, path).drawn(pipe, recorded, quiet)  # how many at once makes no difference
    summary = other.workload.model_copy(update={"digest": "other"})
    monkeypatch.setattr(recorded, "attributes", other.model_copy(update={"workload": summary}))
    seen = list[float]()
    FreshRuns(2, path).drawn(pipe, recorded, seen.append)
    assert seen == [0.0, 1.0]


def test_runs_that_are_not_finite_are_left_out(
    pipe: EmojiPipeline, recorded: Trace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*args: Any, **kwargs: Any) -> torch.Tensor:
        latents = sample_latents(*args, **kwargs)
        latents[1] = torch.nan
        return latents

    monkeypatch.setattr(fresh_runs, "sample_latents", broken)
    found = FreshRuns(3, tmp_path / FRESH_RUNS).drawn(pipe, recorded, quiet)
    further = recorded.workload().further("fit", 3)
    assert found.jobs == (further[0], further[2])
    assert found.latents.isfinite().all()


def test_a_search_refines_on_them(pipe: EmojiPipeline, recorded: Trace, tmp_path: Path) -> None:
    problem, stages = Problem(recorded), list[str]()
    candidates: list[Candidate] = solve(problem, Settings(groups=3), (BUDGET,), seed=0)
    options = SearchOptions(RolloutLimits(60, rollouts=2), Refinement(60, 2, batch=6, evaluations=1), fresh=4)
    study = StudyFolder.open(tmp_path / "study", {})
    search(pipe, [candidates], BUDGET, study, options, lambda stage, share, news: stages.append(stage))
    assert list(dict.fromkeys(stages)) == ["confirm", "refine", "fresh"]
    account = study.read_result()["refinement"]
    assert account["samples"] == len(problem.samples("fit").jobs) + 4
    assert (study.folder / FRESH_RUNS).exists()
