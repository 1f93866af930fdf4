"""Refinement through smaller samples: where errors rank as at full size, and nowhere else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from diffusers import FlowMatchEulerDiscreteScheduler

from hyca_calib.costs.budget import Budget
from hyca_calib.demo.emoji.pipeline import EmojiPipeline
from hyca_calib.demo.glyphs.pipeline import GlyphPipeline
from hyca_calib.search import smaller as module
from hyca_calib.search.assemble import build_section
from hyca_calib.search.options import Refinement
from hyca_calib.search.preconditioner import coordinates
from hyca_calib.search.problem import Problem
from hyca_calib.search.refine import refine_taps
from hyca_calib.search.refinement_task import RefinementTask
from hyca_calib.search.settings import Settings
from hyca_calib.search.smaller import LEAST_RANK, at_size, parse_size, rank_correlation, size_for, smaller
from hyca_calib.search.tune import solve
from hyca_calib.trace.store import Trace
from hyca_runtime.errors import WorkloadError

HALF = Refinement(minutes=60, iterations=4, batch=2, evaluations=1, size=(("height", 8), ("width", 8)))


@pytest.fixture
def task(recorded: Trace, pipe: EmojiPipeline) -> RefinementTask:
    problem = Problem(recorded)
    (candidate,) = solve(problem, Settings(groups=2), [Budget.parse("4 steps")], 0)
    section = build_section(candidate)
    start, expand = coordinates(problem, section, "channel")
    return RefinementTask(pipe, section, start, expand, problem.samples("fit"), problem.samples("select"))


def test_gradients_of_a_quarter_of_the_tokens_serve_whole_samples(task: RefinementTask, tmp_path: Any) -> None:
    small, told = smaller(task, HALF, 0)
    assert told["size"] == {"height": 8, "width": 8}
    assert told["rank_correlation"] >= LEAST_RANK
    assert small.fit.latents.shape[1] == task.fit.latents.shape[1] // 4
    assert small.select is task.select, "judged at full size"
    assert [job.seed for job in small.fit.jobs] == [job.seed for job in task.fit.jobs]
    account = refine_taps(small, HALF, tmp_path / "state", 0)[1]
    assert account["select_psnr_after_db"] > account["select_psnr_before_db"]


def test_ranks_agree_with_themselves_alone(task: RefinementTask) -> None:
    same = at_size(task.pipe, task.fit[:2], replace(HALF, size=()))
    assert rank_correlation(task, same, 0) == pytest.approx(1.0)
    strangers = replace(same, latents=same.latents.flip(1) * 3)
    assert rank_correlation(task, strangers, 0) < LEAST_RANK


def test_other_ranks_are_refined_at_full_size(task: RefinementTask, monkeypatch: pytest.MonkeyPatch) -> None:
    for rank in (LEAST_RANK - 0.01, float("nan")):
        monkeypatch.setattr(module, "rank_correlation", lambda *_, rank=rank: rank)
        found, told = smaller(task, HALF, 0)
        assert found is task
        assert "expected at least" in told["full_size_because"]


def test_other_noise_levels_are_refined_at_full_size(task: RefinementTask, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of pipelines that shift them by the number of tokens."""
    monkeypatch.setattr(task.pipe, "scheduler", FlowMatchEulerDiscreteScheduler(shift=3.0))
    found, told = smaller(task, HALF, 0)
    assert found is task
    assert "its noise levels are others" in told["full_size_because"]


def test_sizes_are_said_as_the_call_takes_them(pipe: EmojiPipeline) -> None:
    assert parse_size(None) == {}
    assert parse_size("height=512, num_frames=17") == {"height": 512, "num_frames": 17}
    for bad in ("0.5", "depth=3", "height=0", "height"):
        with pytest.raises(WorkloadError, match="expected height, width, num_frames with numbers"):
            parse_size(bad)
    assert size_for(pipe, "height=16") == {"height": 16}
    with pytest.raises(WorkloadError, match="EmojiPipeline takes no num_frames"):
        size_for(pipe, "num_frames=4")
    with pytest.raises(WorkloadError, match="takes no height"):
        size_for(GlyphPipeline.__new__(GlyphPipeline), "height=16")
